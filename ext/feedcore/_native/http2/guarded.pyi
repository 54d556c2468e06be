from feedcore._native.http2.h2stream import Link

class Guarded(Link):
    frames_sent: int
    verdict: str | None
