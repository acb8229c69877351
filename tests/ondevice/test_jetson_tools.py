"""What Jetsons print, as shown in public: issues of tx-utils, jetson_exporter and jetson_stats, NVIDIA's documents."""

from __future__ import annotations

import pytest

from edgecompile.ondevice.runner import clocks, l4t_release, power_mode, tegrastats_watts

TX2 = (
    "RAM 2020/7852MB (lfb 1164x4MB) CPU [9%@345,21%@345,25%@345,3%@345,1%@345,1%@345] EMC_FREQ 0% GR3D_FREQ 0% "
    "PLL@42.5C MCPU@42.5C PMIC@100C Tboard@40C GPU@41C VDD_SYS_GPU 153/158 VDD_SYS_SOC 536/547 VDD_4V0_WIFI 633/527 "
    "VDD_IN 3140/3208 VDD_SYS_CPU 536/590 VDD_SYS_DDR 557/601"
)
AGX_ORIN = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CPU@44.562C Tboard@32C tj@44.343C "
    "VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
WITHOUT_SENSORS = "RAM 1462/3956MB (lfb 10x1MB) SWAP 0/1978MB (cached 0MB) CPU [5%@102,off,off,1%@102] GR3D_FREQ 0%@76"
ORIN_NX = """cpu5:  Governor=schedutil MinFreq=729600 MaxFreq=1344000 CurrentFreq=1267200 IdleStates: WFI=1 c7=1
GPU MinFreq=306000000 MaxFreq=918000000 CurrentFreq=306000000
Active GPU TPCs: 4
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=665600000
FAN Dynamic Speed Control=nvfancontrol hwmon0_pwm1=60
NV Power Mode: 25W
"""
NANO = """Online CPUs: 0-1
cpu0: Online=1 Governor=schedutil MinFreq=921600 MaxFreq=921600 CurrentFreq=921600
GPU MinFreq=614400000 MaxFreq=614400000 CurrentFreq=614400000
EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=1
Fan: PWM=0
NV Power Mode: 5W
"""


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        (TX2, 3.140),  # of all its rails, the one that feeds them
        (AGX_ORIN, 2.340 + 0.390 + 4.025),  # none feeds all; one is part of another
        (WITHOUT_SENSORS, None),
        ("", None),
    ],
)
def test_power_of_a_line_of_tegrastats(line: str, watts: float | None) -> None:
    assert tegrastats_watts(line) == pytest.approx(watts)


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n", "MODE_15W_6CORE (2)"),
        ("NV Power Mode: MAXN\n0", "MAXN (0)"),
        (
            "NV Fan Mode:quiet\nNV Power Mode: MODE_15W_DESKTOP\n7\nNVPM ERROR: Error opening "
            "/sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13\n",
            "MODE_15W_DESKTOP (7)",
        ),
        ("", None),
    ],
)
def test_the_power_mode(query: str, mode: str | None) -> None:
    assert power_mode(query) == mode


def test_clocks() -> None:
    free, held = clocks(ORIN_NX), clocks(NANO)
    assert free["GPU"] == {"min_mhz": 306, "max_mhz": 918, "cur_mhz": 306}
    assert free["EMC"]["cur_mhz"] == 665.6
    assert held["GPU"]["min_mhz"] == held["GPU"]["max_mhz"] == held["GPU"]["cur_mhz"]
    assert clocks("Error: jetson_clocks needs root\n") == {}


def test_the_release() -> None:
    line = (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 2025"
    )
    assert l4t_release(line) == "36.4.3"
    assert l4t_release("") is None
