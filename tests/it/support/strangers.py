"""Torn files of writers that know nothing of us, and what zlib, fed byte by byte, gets out of each before its first error.

    strangers.py DATA EXPECTED STEP     one .part a case into DATA, its readable lines into EXPECTED, every STEP-th cut

Says one line of JSON a case.
"""

import json
import pathlib
import subprocess
import sys
import zlib

data, expected, step = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
ROWS = "".join(f"{n},10.{n % 7}.{n % 251}.{n % 13},{n * 37 % 1000003}\n" for n in range(40)).encode()
# Long enough for blocks of pigz that end inside lines.
MANY = "".join(f"{n},{n * 2654435761 % 4294967296:08x}{n * 40503 % 65536:04x}\n" for n in range(9000)).encode()
GO = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])
FLUSH = {"none": None, "sync": zlib.Z_SYNC_FLUSH, "full": zlib.Z_FULL_FLUSH, "partial": zlib.Z_PARTIAL_FLUSH}


def packed(text, flush, at_lines, go=False):
    """As Python's zlib writes it, or with Go's header."""
    coder = zlib.compressobj(6, zlib.DEFLATED, -15 if go else 31)
    chunks = text.splitlines(True) if at_lines else [text[i : i + 46] for i in range(0, len(text), 46)]
    out = [GO] if go else []
    for i, chunk in enumerate(chunks):
        out.append(coder.compress(chunk))
        if FLUSH[flush] is not None and i % 5 == 4:
            out.append(coder.flush(FLUSH[flush]))
    out.append(coder.flush())
    if go:
        out.append(zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little"))
    return b"".join(out)


def tool(text, *command):
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True).stdout


def writers():
    for go in [False, True]:
        for flush in FLUSH:
            for at_lines in [True] if flush == "none" else [True, False]:
                where = "" if flush == "none" else " at lines" if at_lines else " inside lines"
                yield "Go's header" if go else "Python zlib", flush + where, packed(ROWS, flush, at_lines, go), ROWS, step
    yield "gzip -n", "none", tool(ROWS, "gzip", "-n"), ROWS, step
    yield "igzip", "none", tool(ROWS, "igzip", "-c"), ROWS, step
    yield "libdeflate", "none", tool(ROWS, "libdeflate-gzip", "-c"), ROWS, step
    yield "pigz -n", "none", tool(ROWS, "pigz", "-n"), ROWS, step
    yield "pigz -b 32", "sync inside lines", tool(MANY, "pigz", "-n", "-b", "32"), MANY, 1009 * step
    yield "pigz -i -b 32", "full inside lines", tool(MANY, "pigz", "-n", "-i", "-b", "32"), MANY, 1009 * step
    yield "Python zlib, long", "sync at lines", packed(MANY, "sync", True), MANY, 1009 * step
    yield "gzip -n, long", "none", tool(MANY, "gzip", "-n"), MANY, 1009 * step
    yield "igzip, long", "none", tool(MANY, "igzip", "-c"), MANY, 1009 * step
    half = len(ROWS) // 2
    yield "cat a.gz b.gz", "members", tool(ROWS[:half], "gzip", "-n") + tool(ROWS[half:], "gzip", "-n"), ROWS, step


def read(blob):
    """What comes out before the first error, and how it ends: whole, short or error."""
    raw, rest = [], blob
    while True:
        reader = zlib.decompressobj(31)
        for i in range(len(rest)):
            try:
                raw.append(reader.decompress(rest[i : i + 1]))
            except zlib.error:
                return b"".join(raw), "error"
            if reader.eof:
                rest = rest[i + 1 :]
                break
        else:
            return b"".join(raw), "short"
        if not rest.strip(b"\0"):
            return b"".join(raw), "whole"
        rest = rest.lstrip(b"\0")


def judge(blob):
    raw, end = read(blob)
    solid = blob.rstrip(b"\0")
    if end != "whole":
        # So many zeros are a power cut's, not the stream's.
        if len(blob) - len(solid) >= 8:
            raw, end = read(solid)
        raw = raw[: raw.rfind(b"\n") + 1]
    return raw, end


def cases(blob, every):
    for cut in range(0, len(blob) + 1, every):
        yield "cut", blob[:cut]
    for cut in range(0, len(blob) + 1, 17 * every):
        yield "cut, 4096 zeros behind", blob[:cut] + bytes(4096)
    for name, at in [("beginning", 12), ("middle", len(blob) // 2), ("end", len(blob) - 6)]:
        flipped = bytearray(blob)
        flipped[at] ^= 0x10
        yield f"flipped byte, {name}", bytes(flipped)
    for name, at in [("beginning", 0), ("middle", (len(blob) - 512) // 2), ("end", len(blob) - 512)]:
        zeroed = bytearray(blob)
        at = max(at, 0)
        zeroed[at : at + 512] = bytes(len(zeroed[at : at + 512]))
        yield f"zeroed sector, {name}", bytes(zeroed)
    yield "zeros behind", blob + bytes(4096)
    yield "other bytes behind", blob + b"something else"


number = 0
for writer, flush, blob, text, every in writers():
    for damage, torn in cases(blob, every):
        stem = f"flows_20250101_000000_{number:05}"
        number += 1
        (data / f"{stem}.part").write_bytes(torn)
        lines, end = judge(torn)
        (expected / stem).write_bytes(lines)
        print(json.dumps({"stem": stem, "writer": writer, "flush": flush, "damage": damage, "end": end, "all": lines == text}))
