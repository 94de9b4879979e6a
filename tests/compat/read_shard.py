#!/usr/bin/env python3
"""Lists and checks a shard; written from shards/format/FORMAT.md alone, to prove that it says enough.

    python3 read_shard.py FILE.shard

Needs only the standard library. With the packages xxhash, blake3 and zstandard (pip install xxhash blake3 zstandard) it also
checks checksums and digests and unpacks payloads; what it has to leave out without them it says on stderr. Exit status 0 only for a sound shard.
"""
import struct
import sys

try:
    import xxhash
except ImportError:
    xxhash = None
try:
    import blake3
except ImportError:
    blake3 = None
try:
    import zstandard
except ImportError:
    zstandard = None


class Bad(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Bad(why)


def check(data, stored, what, seed=0):
    if xxhash is not None:
        need(xxhash.xxh3_64_intdigest(data, seed=seed) == stored, f"{what}: wrong checksum")


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


class Take:
    def __init__(self, data):
        self.data, self.at = data, 0

    def get(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def text(self):
        count = self.get("I")
        need(self.at + count <= len(self.data), "a text runs over the end")
        self.at += count
        return self.data[self.at - count:self.at].decode()


def round_up(number, to):
    return -(-number // to) * to


def read_shard(file):
    need(len(file) >= 112, "too short")
    trailer = file[-48:]
    footer_at, footer_len, footer_sum, version, zero = struct.unpack_from("<QQQII", trailer)
    need(trailer[40:] == b"BEITTAIL", "not a shard")
    check(trailer[:32], u64(trailer, 32), "trailer")
    need(version == 1, f"version {version}")
    need(zero == 0 and footer_at + footer_len == len(file) - 48, "trailer: impossible")
    footer = file[footer_at:footer_at + footer_len]
    check(footer, footer_sum, "footer")

    head = file[:64]
    check(head[:56], u64(head, 56), "file header")
    need(head[:12] == b"BEITSHRD\x01\0\0\0" and not any(head[12:16] + head[24:56]), "file header: impossible")

    take = Take(footer)
    number, count, payload_bytes, index_at, names_at, names_len, names_sum = take.get("7Q")
    first_entry, entries = take.get("QQ")
    listing, body = take.get("32s32s")
    classes, seed, views, rows, columns, vocab, tokenizer = take.get("IQIHHI32s")
    name, view_spec, payload_spec = take.text(), take.text(), take.text()
    quarantine = [(take.text(), take.text()) for _ in range(take.get("I"))]
    need(take.at == footer_len, "footer: bytes left over")
    need(u64(head, 16) == number, "file header: of another shard")
    need(index_at % 64 == 0 and names_at == index_at + 32 * count, "footer: impossible index")
    need(footer_at == round_up(names_at + names_len, 64), "footer: impossible names")
    need(entries == count + len(quarantine), "footer: impossible coverage")
    if blake3 is not None:
        need(blake3.blake3(file[:footer_at]).digest() == body, "body: wrong digest")

    names = Take(file[names_at:names_at + names_len])
    check(names.data, names_sum, "names")
    tokens = rows * columns
    bits = max(1, (vocab - 1).bit_length())
    frame_len = 1 + -(-tokens * bits // 8) + 8
    here = 64
    for i in range(count):
        entry = file[index_at + 32 * i:index_at + 32 * i + 32]
        check(entry[:24], u64(entry, 24), f"index entry {i}", seed=i)
        offset, length, id_ = struct.unpack_from("<QQQ", entry)
        need(offset == here and offset + length <= index_at, f"index entry {i}: impossible")
        here = round_up(offset + length, 64)
        record = file[offset:offset + length]
        yield from read_record(i, id_, record, views, frame_len, tokens, bits, vocab, classes, names)
        payload_bytes -= u64(record, 24)
    need(here == index_at and payload_bytes == 0, "footer: does not add up")
    need(names.at == names_len, "names: bytes left over")
    for path, reason in quarantine:
        yield f"quarantined {path}: {reason}"


def read_record(i, id_, record, views, frame_len, tokens, bits, vocab, classes, names):
    (magic, header_len, record_id, number, stored_len, plain_len, payload_sum, label, width, height,
     kind, codec, zero, path_len, zero2) = struct.unpack_from("<4sIQQQQQIIIBBHII", record)
    need(magic == b"SREC" and header_len <= len(record), f"record {i}: no header")
    check(record[:header_len - 8], u64(record, header_len - 8), f"record {i}, header")
    need(header_len == round_up(72 + path_len, 8) + 8, f"record {i}: impossible header length")
    need((record_id, number, zero, zero2) == (id_, i, 0, 0), f"record {i}: another record")
    need(header_len + stored_len + views * frame_len == len(record), f"record {i}: impossible length")
    need(label < classes, f"record {i}: impossible label")
    path = record[72:72 + path_len].decode()
    need((names.get("I"), names.text()) == (label, path), f"record {i}: other name")
    if blake3 is not None:
        need(blake3.blake3(path.encode()).digest()[:8] == struct.pack("<Q", id_), f"record {i}: not its path's id")
    payload = record[header_len:header_len + stored_len]
    check(payload, payload_sum, f"record {i}, payload")
    if codec == 1:
        payload = zstandard.ZstdDecompressor().decompress(payload, plain_len) if zstandard else None
    shown = "?" if payload is None or (kind == 1 and zstandard is None) else payload.hex()
    need(payload is None or len(payload) == plain_len, f"record {i}: impossible payload length")
    yield f"{i} {id_:016x} {label} {width}x{height} {kind} {shown} {path}"

    for k in range(views):
        at = len(record) - (views - k) * frame_len
        frame = record[at:at + frame_len]
        check(frame[:-8], u64(frame, frame_len - 8), f"record {i}, view {k}", seed=(id_ + k) % 2**64)
        string = int.from_bytes(frame[1:-8], "little")
        grid = [string >> (t * bits) & ((1 << bits) - 1) for t in range(tokens)]
        need(string >> (tokens * bits) == 0 and max(grid) < vocab, f"record {i}, view {k}: impossible tokens")
        yield f"{i} view {k} grey {frame[0]} tokens {' '.join(map(str, grid))}"


def main():
    for package, module in [("xxhash", xxhash), ("blake3", blake3), ("zstandard", zstandard)]:
        if module is None:
            print(f"no {package}: some checks are left out", file=sys.stderr)
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    try:
        for line in read_shard(data):
            print(line)
    except (Bad, struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    except Exception as error:
        if zstandard is None or not isinstance(error, zstandard.ZstdError):
            raise
        sys.exit(f"{sys.argv[1]}: {error}")


main()
