"""Reads the scalars of a TensorBoard event file, from the descriptions of the formats alone.

    tensorboard_events.py JOB ANSWERS

JOB is JSON: `file`. Writes JSON to ANSWERS: for each tag its value at each step. A record consists of its length, the checksum
of the length, a protobuf Event message, and the checksum of the message (tensorflow/core/lib/io/record_writer.h). Checksums
are CRC-32C, rotated by 15 bits and offset by a constant.
"""

import json
import struct
import sys
from pathlib import Path


def checksum(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12:12 + length]
        assert struct.unpack("<I", data[8:12])[0] == checksum(data[:8]), "the length's checksum"
        assert struct.unpack("<I", data[12 + length:16 + length])[0] == checksum(body), "the record's checksum"
        yield body
        data = data[16 + length:]


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 128:
            return value, at


def fields(data):
    """Yields the number and the value of each field of a message."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            length, at = {1: (8, at), 5: (4, at)}.get(key & 7) or varint(data, at)
            value, at = data[at:at + length], at + length
        yield key >> 3, value


def main():
    job, answers = (Path(path) for path in sys.argv[1:])
    scalars = {}
    for record in records(Path(json.loads(job.read_text())["file"]).read_bytes()):
        event = dict(fields(record))
        for number, value in fields(event.get(5, b"")):  # Event.summary: its values
            scalar = dict(fields(value)) if number == 1 else {}
            if 2 in scalar:  # tag 1, simple_value 2
                steps = scalars.setdefault(scalar[1].decode(), {})
                steps[str(event.get(2, 0))] = struct.unpack("<f", scalar[2])[0]
    answers.write_text(json.dumps(scalars))


main()
