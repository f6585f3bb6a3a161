"""Compile gsplat's CUDA kernels into the module that it looks for first, `gsplat.csrc`.

    python compile_gsplat.py FOLDER

gsplat's wheel brings the sources and compiles them on first use, for which every node would need
CUDA's compiler. The sources and flags are those of `gsplat/cuda/_backend.py` in 1.5.3;
TORCH_CUDA_ARCH_LIST says for which GPUs.
"""

import importlib.util
import sys
from pathlib import Path

from torch.utils.cpp_extension import load


def main() -> None:
    """Leave `csrc.so` in the folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("gsplat")
    if spec is None or spec.origin is None:
        sys.exit("gsplat is not installed")
    cuda = Path(spec.origin).parent / "cuda"
    kernels = sorted([*(cuda / "csrc").glob("*.cu"), *(cuda / "csrc").glob("*.cpp")])
    # It is imported at the end, which needs no GPU: what does not link fails here.
    load(
        name="csrc",
        sources=[str(path) for path in (*kernels, cuda / "ext.cpp")],
        extra_cflags=["-O3", "-Wno-attributes"],
        extra_cuda_cflags=["-O3", "-use_fast_math"],
        extra_include_paths=[str(cuda / "include"), str(cuda / "csrc" / "third_party" / "glm")],
        build_directory=str(folder),
        verbose=True,
    )
    if not (folder / "csrc.so").is_file():
        sys.exit(f"{folder}/csrc.so was not made")


if __name__ == "__main__":
    main()
