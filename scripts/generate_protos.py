"""Generates feedcore_pb from proto/: `feedcore.v1` becomes `feedcore_pb.v1`, so that it cannot
shadow the engine."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path


def generate(source: Path, target: Path) -> None:
    """Writes one _pb2.py, _pb2.pyi and _pb2_grpc.py for each .proto below `source` into the package
    `target`."""
    import grpc_tools
    from grpc_tools import protoc

    protos = sorted(source.rglob("*.proto"))
    if not protos:
        raise SystemExit(f"{source}: no .proto files")
    staging = target.with_name(target.name + ".new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{source}", f"-I{well_known}"]
    arguments += [f"--{kind}={staging}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    if protoc.main(arguments + [str(p) for p in protos]) != 0:
        raise SystemExit("protoc failed; its message is above")
    made = staging / "feedcore"
    for file in [*made.rglob("*.py"), *made.rglob("*.pyi")]:
        text = file.read_text()
        file.write_text(re.sub(r"^from feedcore\.", "from feedcore_pb.", text, flags=re.MULTILINE))
    for folder in [made, *(path for path in made.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()
    _replace(target, made)
    shutil.rmtree(staging)


def _replace(target: Path, made: Path) -> None:
    """Makes `target` hold what `made` holds; files that are the same already stay as they are,
    so that a build beside a running server takes nothing away from it."""
    wanted = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    for old in [path for path in target.rglob("*.py*") if path.is_file()]:
        if old.suffix in (".py", ".pyi") and old.relative_to(target) not in wanted:
            old.unlink()
    for name in wanted:
        new, old = made / name, target / name
        if not old.exists() or old.read_bytes() != new.read_bytes():
            old.parent.mkdir(parents=True, exist_ok=True)
            new.replace(old)


if __name__ == "__main__":
    generate(Path(sys.argv[1]), Path(sys.argv[2]))
