"""Generates feedcore_pb from proto/: `feedcore.v1` becomes `feedcore_pb.v1`, so that it cannot shadow the engine."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path


def generate(source: Path, target: Path) -> None:
    """Writes one _pb2.py, _pb2.pyi and _pb2_grpc.py for each .proto below `source` into the package `target`."""
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
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(staging / "feedcore", target)
    shutil.rmtree(staging)
    for file in list(target.rglob("*.py")) + list(target.rglob("*.pyi")):
        text = file.read_text()
        file.write_text(re.sub(r"^from feedcore\.", "from feedcore_pb.", text, flags=re.MULTILINE))
    for folder in [target, *(p for p in target.rglob("*") if p.is_dir())]:
        (folder / "__init__.py").touch()


if __name__ == "__main__":
    generate(Path(sys.argv[1]), Path(sys.argv[2]))
