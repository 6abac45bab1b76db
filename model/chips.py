"""Peak speed of the accelerators that models are trained on."""

# Dense products in bfloat16 with sums in float32, in 10^12 operations a second, from the makers' data sheets; where a sheet gives the
# figure "with sparsity", half of it. The words of a chip's name as its driver tells it; of several that fit, the longest counts.
PEAKS = {
    "A30": 165.0,
    "A40": 149.7,
    "A100": 312.0,
    "A800": 312.0,
    "A6000": 154.8,
    "H20": 148.0,
    "H100": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H200": 989.4,
    "H200 NVL": 835.0,
    "H800": 989.4,
    "GH200": 989.4,
    "B200": 2250.0,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "RTX 3090": 71.0,
    "RTX 4090": 165.2,
    "RTX 5090": 209.5,
    "RTX 6000 Ada": 364.2,
    "MI300X": 1307.4,
    "MI325X": 1307.4,
}
_OTHERS = {"MIG", "Laptop", "Max-Q", "D"}  # a part of a chip, or a slower one under a similar name


def peak(name: str) -> float | None:
    """Operations a second of a chip, dense in bfloat16; None where they are not known.

    Args:
        name: As `torch.cuda.get_device_name` gives it: "NVIDIA A100-SXM4-80GB".
    """
    words = set(name.replace("-", " ").split()) | set(name.split())
    if words & _OTHERS:
        return None
    fitting = [chip for chip in PEAKS if set(chip.split()) <= words]
    return PEAKS[max(fitting, key=len)] * 1e12 if fitting else None
