"""Package archives in miniature, one of each kind, and the manifest's row for one."""

import hashlib
import io
import lzma
import tarfile
import zipfile

from pretrainx.data.manifest import Entry

FILES = {"package/data/a.txt": b"first\n", "package/data/b.txt": b"second\n", "package/setup.py": b"raise SystemExit"}


def tar_of(files, mode, prefix=""):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as opened:
        for name, content in files.items():
            item = tarfile.TarInfo(prefix + name)
            item.size = len(content)
            opened.addfile(item, io.BytesIO(content))
    return stream.getvalue()


def make(path, files=FILES):
    """An archive of the kind that the ending of `path` says."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as opened:
            for name, content in files.items():
                opened.writestr(name, content)
    elif path.suffix == ".tgz":
        path.write_bytes(tar_of(files, "w:gz"))
    else:
        data = lzma.compress(tar_of(files, "w", "./"))
        parts = (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz/", data))
        headers = ((f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(c):<10}`\n".encode(), c) for name, c in parts)
        path.write_bytes(b"!<arch>\n" + b"".join(head + c + b"\n" * (len(c) % 2) for head, c in headers))
    return path


def entry(archive, **changes):
    values = {
        "name": "mini",
        "modality": "text",
        "serves": "tests",
        "registry": {".whl": "pypi", ".tgz": "npm", ".deb": "debian"}[archive.suffix],
        "package": "mini-data",
        "version": "1.0",
        "sha256": "" if archive.suffix == ".deb" else hashlib.sha256(archive.read_bytes()).hexdigest(),
        "size": archive.stat().st_size,
        "members": (r"package/data/\w+\.txt",),
        "counts": (("files", 2, 2), ("bytes", 13, 13)),
        "licence": "CC0",
        "attribution": "nobody",
        "converter": "copy_files",
        "splits": "none",
        "source": "text",
        "reads": "*.txt",
    }
    return {"mini": Entry(**(values | changes))}
