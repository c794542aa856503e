"""Arithmetic peaks of GPUs as their vendor states them: a ceiling to compare with, which none reaches."""

SOURCE = (
    "NVIDIA's datasheets of the H200, H100, A100, L40S, L4 and A10 and the white papers of the GeForce "
    "generations, dense and without sparsity"
)
# TFLOP/s: half precision on the matrix units with sums in float32, and float32 outside of them. The first
# name that is part of the device's own counts.
_PEAKS = {
    "H200 NVL": (836.0, 60.0), "H200": (989.0, 67.0), "GH200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0), "H100 NVL": (836.0, 60.0), "H100": (989.0, 67.0),
    "A100": (312.0, 19.5), "L40S": (362.0, 91.6), "L4": (121.0, 30.3), "A10": (125.0, 31.2),
    "RTX 4090": (165.2, 82.6), "RTX 3090": (71.0, 35.6),
}  # fmt: skip


def peak(device: str, dtype: str) -> float | None:
    """TFLOP/s of a device by its name, in "float32" or a half precision; None for an unknown one."""
    words = f" {device} ".replace("-", " ")
    found = next((both for name, both in _PEAKS.items() if f" {name} " in words), None)
    return None if found is None else found[dtype == "float32"]
