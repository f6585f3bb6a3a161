"""A loopback RTSP server that plays an H.264 file as a camera would, and misbehaves on request.

    python -m tests.support.rtsp_server film.mp4 --port 8554 --loop

It packetizes the file itself (RTP over the RTSP connection, RFC 2326 10.12 and RFC 6184: single
NAL units and FU-A) and paces it in real time; each client gets the film from its beginning. It
prints its address once it listens, and when each connection begins to play. The faults hold for
as many connections as `--faulty` says.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import av

from tests.support.paths import ROOT

CLOCK = 90_000
LARGEST_PAYLOAD = 1400
REALM, NONCE = "loopback", "5ca1ab1e"
SPS, PPS, IDR = 7, 8, 5


@dataclass(frozen=True)
class Picture:
    """One coded picture."""

    at_s: float
    """When it is sent, since the start of the film."""
    ticks: int
    """Presentation time in 1/90000 s."""
    units: list[bytes]
    """NAL units without start codes."""


class Film:
    """The coded pictures of a file in decoding order."""

    def __init__(self, path: str) -> None:
        with av.open(path) as container:
            stream = container.streams.video[0]
            if stream.codec_context.name != "h264":
                raise SystemExit(f"{path} holds {stream.codec_context.name}; give H.264")
            sets, length = parameter_sets(bytes(stream.codec_context.extradata or b""))
            packets: list[Any] = [p for p in container.demux(stream) if p.size]
            base = stream.time_base
        first = min(p.dts for p in packets)
        earliest = min(p.pts for p in packets)
        self.pictures = [
            Picture(
                at_s=float((p.dts - first) * base),
                ticks=round((p.pts - earliest) * base * CLOCK),
                units=units(bytes(p), length),
            )
            for p in packets
        ]
        inside = [u for u in self.pictures[0].units if u[0] & 31 in (SPS, PPS)]
        self.sets = sets or inside
        step = self.pictures[-1].at_s / max(1, len(packets) - 1)
        self.lasts_s = self.pictures[-1].at_s + step

    def sdp(self) -> str:
        """Describe it (RFC 6184 8.2.1)."""
        profile = next((s[1:4].hex() for s in self.sets if s[0] & 31 == SPS), "42e01f")
        sprop = ",".join(base64.b64encode(s).decode() for s in self.sets)
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=loopback\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
            "a=control:*\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
            f"a=fmtp:96 packetization-mode=1;profile-level-id={profile};"
            f"sprop-parameter-sets={sprop}\r\na=control:track1\r\n"
        )


def parameter_sets(extradata: bytes) -> tuple[list[bytes], int]:
    """Return SPS and PPS, and the bytes of a NAL unit's length (0: start codes)."""
    if not extradata or extradata[0] != 1:
        return units(extradata, 0), 0
    found: list[bytes] = []
    place = 5
    for mask in (31, 255):
        count = extradata[place] & mask
        place += 1
        for _ in range(count):
            (size,) = struct.unpack_from(">H", extradata, place)
            found.append(extradata[place + 2 : place + 2 + size])
            place += 2 + size
    return found, (extradata[4] & 3) + 1


def units(data: bytes, length: int) -> list[bytes]:
    """Split a packet into NAL units."""
    if not length:
        return [u for u in re.split(rb"\x00*\x00\x00\x01", data) if u]
    found: list[bytes] = []
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + length], "big")
        found.append(data[place + length : place + length + size])
        place += length + size
    return found


def payloads(unit: bytes) -> Iterator[bytes]:
    """Yield a NAL unit whole, or in fragments (FU-A, RFC 6184 5.8)."""
    if len(unit) <= LARGEST_PAYLOAD:
        yield unit
        return
    head, body = unit[0], unit[1:]
    for start in range(0, len(body), LARGEST_PAYLOAD):
        part = body[start : start + LARGEST_PAYLOAD]
        first, last = start == 0, start + LARGEST_PAYLOAD >= len(body)
        yield bytes([head & 0xE0 | 28, first << 7 | last << 6 | head & 31]) + part


class Server:
    """Serves films; connection number n gets film min(n, last)."""

    def __init__(self, films: list[Film], options: argparse.Namespace) -> None:
        self.films = films
        self.options = options
        self.connections = 0

    async def serve(self) -> None:
        server = await asyncio.start_server(self.talk, self.options.host, self.options.port)
        host, port = server.sockets[0].getsockname()[:2]
        print(f"rtsp://{host}:{port}/live", flush=True)
        async with server:
            await server.serve_forever()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        playing: asyncio.Task[None] | None = None
        try:
            while request := await self.request(reader):
                method, headers = request
                if self.options.silent:
                    continue
                writer.write(self.answer(method, headers))
                await writer.drain()
                if method == "TEARDOWN":
                    break
                if method == "PLAY" and playing is None:
                    film = self.films[min(self.connections, len(self.films) - 1)]
                    faulty = self.connections < self.options.faulty
                    self.connections += 1
                    print(f"PLAY {self.connections} {time.time():.3f}", flush=True)
                    playing = asyncio.create_task(self.play(film, writer, faulty))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            if playing is not None:
                playing.cancel()
            writer.close()

    async def request(self, reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
        while True:
            first = await reader.read(1)
            if not first:
                return None
            if first != b"$":
                break
            # What the client reports of its reception (RTCP) is read and forgotten.
            _, size = struct.unpack(">BH", await reader.readexactly(3))
            await reader.readexactly(size)
        text = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = text.strip().split("\r\n")
        pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
        headers = {"uri": lines[0].split()[1], **{k.strip().lower(): v.strip() for k, v in pairs}}
        await reader.readexactly(int(headers.get("content-length", 0)))
        return lines[0].split()[0], headers

    def answer(self, method: str, headers: dict[str, str]) -> bytes:
        status, fields, body = "200 OK", dict[str, str](), ""
        options = self.options
        if options.user and method != "OPTIONS" and not self.knows(method, headers):
            status = "401 Unauthorized"
            digest = f'Digest realm="{REALM}", nonce="{NONCE}"'
            basic = f'Basic realm="{REALM}"'
            fields["WWW-Authenticate"] = digest if options.auth == "digest" else basic
        elif options.missing:
            status = "404 Not Found"
        elif method == "OPTIONS":
            fields["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
        elif method == "DESCRIBE":
            body = self.films[min(self.connections, len(self.films) - 1)].sdp()
            fields["Content-Type"] = "application/sdp"
        elif method == "SETUP":
            if "TCP" not in headers.get("transport", ""):
                status = "461 Unsupported Transport"
            fields["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
        elif method == "PLAY":
            fields["Range"] = "npt=-3-" if options.negative else "npt=0-"
            fields["RTP-Info"] = f"url={headers['uri']}/track1;seq=0;rtptime={options.rtptime}"
        elif method not in ("TEARDOWN", "GET_PARAMETER"):
            status = "501 Not Implemented"
        lines = [f"RTSP/1.0 {status}", f"CSeq: {headers.get('cseq', 0)}", "Session: 1;timeout=60"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()

    def knows(self, method: str, headers: dict[str, str]) -> bool:
        user, password = self.options.user, self.options.password
        given = headers.get("authorization", "")
        if self.options.auth == "basic":
            return given == "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        said = dict(re.findall(r'(\w+)="([^"]*)"', given))
        uri = headers["uri"]
        mine = f"{md5(f'{user}:{REALM}:{password}')}:{NONCE}:{md5(f'{method}:{uri}')}"
        same = said.get("uri") == uri
        return same and said.get("username") == user and said.get("response") == md5(mine)

    async def play(self, film: Film, writer: asyncio.StreamWriter, faulty: bool) -> None:
        """Send the film in real time, again and again where it loops."""
        options = self.options
        sequence, sent, began = 0, 0, time.monotonic()
        for turn in range(1 << 30 if options.loop else 1):
            for picture in film.pictures[options.skip if turn == 0 and faulty else 0 :]:
                late = began + turn * film.lasts_s + picture.at_s - time.monotonic()
                await asyncio.sleep(max(0.0, late))
                if faulty and options.stall_after is not None and sent >= options.stall_after:
                    await asyncio.sleep(1e6)
                if faulty and options.drop_after is not None and sent >= options.drop_after:
                    writer.close()
                    return
                ticks = options.rtptime + picture.ticks + round(turn * film.lasts_s * CLOCK)
                if faulty and options.same_times and sent < options.same_times:
                    ticks = options.rtptime
                damaged = faulty and options.damage and sent in options.damage
                parts = list(self.packets(film, picture, damaged=bool(damaged)))
                for n, part in enumerate(parts):
                    marker = 0x80 if n == len(parts) - 1 else 0
                    head = struct.pack(
                        ">BBHII", 0x80, marker | 96, sequence & 0xFFFF, ticks & 0xFFFFFFFF, 7
                    )
                    writer.write(struct.pack(">cBH", b"$", 0, len(head) + len(part)) + head + part)
                    sequence += 1
                sent += 1
                await writer.drain()
        writer.close()

    def packets(self, film: Film, picture: Picture, *, damaged: bool) -> Iterator[bytes]:
        key = any(unit[0] & 31 == IDR for unit in picture.units)
        inside = any(unit[0] & 31 == SPS for unit in picture.units)
        for unit in (film.sets if key and not inside else []) + picture.units:
            if damaged and unit[0] & 31 in (1, IDR):
                # The head of the slice stays, so that the decoder tries.
                half = len(unit) // 2
                unit = unit[:half] + bytes(b ^ 0x5A for b in unit[half:])
            yield from payloads(unit)


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class Loopback:
    """The server in a process of its own, for tests and benchmarks; kill and start it at will."""

    def __init__(self, *films: Path, **options: object) -> None:
        words = [f"--{name.replace('_', '-')}" for name in options]
        values = ["" if value is True else str(value) for value in options.values()]
        given = [w for pair in zip(words, values, strict=True) for w in pair if w]
        self._words = [*map(str, films), *given]
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, again on the same port."""
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.rtsp_server",
                *self._words,
                "--port",
                str(self.port),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("rtsp://"), f"the server did not start: {said!r}"
        self.port = int(said.rpartition(":")[2].partition("/")[0])

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def url(self, login: str = "", query: str = "") -> str:
        """Return its address; `login` is `user:password`."""
        return f"rtsp://{login + '@' if login else ''}127.0.0.1:{self.port}/live{query}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("films", nargs="+", help="H.264; later ones are for later connections")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8554, help="0: any that is free")
    add("--loop", action="store_true", help="play it again and again")
    add("--user", default="", help="ask for this name")
    add("--password", default="")
    add("--auth", choices=("digest", "basic"), default="digest")
    add("--faulty", type=int, default=1, help="how many connections have the faults")
    add("--stall-after", type=int, metavar="PICTURES", help="then send nothing, and stay connected")
    add("--drop-after", type=int, metavar="PICTURES", help="then close the connection")
    add("--skip", type=int, default=0, metavar="PICTURES", help="begin so much later: no keyframe")
    add("--same-times", type=int, default=0, metavar="PICTURES", help="first ones have one time")
    add("--damage", type=int, nargs="*", metavar="PICTURE", help="these arrive broken")
    add("--negative", action="store_true", help="the first times lie below zero")
    add("--rtptime", type=int, default=0xFFFF0000, help="RTP time of the first picture")
    add("--silent", action="store_true", help="take requests, never answer")
    add("--missing", action="store_true", help="answer 404")
    options = parser.parse_args()
    asyncio.run(Server([Film(film) for film in options.films], options).serve())


if __name__ == "__main__":
    main()
