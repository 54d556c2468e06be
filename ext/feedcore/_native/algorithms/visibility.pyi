from feedcore._native.codecs.idset import U64Set
from feedcore.domain.visibility import Audience

def judge(entries: bytes, audience: Audience, tombstones: U64Set) -> bytes: ...
