"""Fetches the headers of Gloo that libtorch's process groups are compiled against: those of Debian's package libgloo-dev,
whatever the system is. Gloo's code itself is in libtorch_cpu.so.

    python scripts/gloo_headers.py FOLDER      writes FOLDER/include/gloo

XPLORE_GLOO_DEB names a copy of the package where the network does not reach Debian.
"""

import hashlib
import io
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

PACKAGE = "libgloo-dev_0.0~git20220518.5b14351-3_amd64.deb"
SHA256 = "80529c9fd8af452faf489e686b94bf87075965c40673803810c4f41634b1e299"
PLACES = [f"http://deb.debian.org/debian/pool/main/g/gloo/{PACKAGE}",
          f"https://snapshot.debian.org/archive/debian/20230611T210420Z/pool/main/g/gloo/{PACKAGE}"]


def package():
    own = os.environ.get("XPLORE_GLOO_DEB")
    if own:
        return Path(own).read_bytes()
    failures = []
    for place in PLACES:
        try:
            with urllib.request.urlopen(place, timeout=60) as answer:
                return answer.read()
        except OSError as error:
            failures.append(f"  {place}: {error}")
    sys.exit("cannot fetch Gloo's headers:\n" + "\n".join(failures)
             + f"\nFetch {PACKAGE} by other means and name it: XPLORE_GLOO_DEB=FILE scripts/setup")


def members(archive):
    """Name and contents of the files in an `ar` archive: 60 bytes of header each, contents padded to even length."""
    at = len(b"!<arch>\n")
    while at < len(archive):
        name, size = archive[at : at + 16].decode().strip().rstrip("/"), int(archive[at + 48 : at + 58])
        yield name, archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def main():
    data = package()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.exit(f"{PACKAGE} has SHA-256 {found}; expected {SHA256}. Was the download cut off?")
    contents = dict(members(data))["data.tar.xz"]
    target = Path(sys.argv[1])
    with tarfile.open(fileobj=io.BytesIO(contents)) as tar:
        for member in tar:
            name = member.name.removeprefix("./").removeprefix("usr/")
            if member.isfile() and name.startswith("include/gloo/"):
                place = target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(tar.extractfile(member).read())


if __name__ == "__main__":
    main()
