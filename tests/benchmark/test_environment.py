import json
import subprocess
import sys

from tfcompress.benchmark import environment


def test_it_describes_this_machine_in_json():
    found = environment.describe()
    json.dumps(found, allow_nan=False)
    assert found["cores"] >= 1 and found["cpu"] and found["os"]
    assert found["memory_bytes"] > 1 << 28
    assert found["versions"]["numpy"].count(".") >= 2
    assert set(found["flags"]) <= set(environment.FLAGS)


def test_arm_and_intel_processors_are_read(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nmodel name : Some CPU @ 2 GHz\nflags : fpu avx2 avx512_vnni\n\n"
                    "processor : 1\nmodel name : Other\nflags : fpu\n")
    assert environment._linux_cpu(str(file)) == ("Some CPU @ 2 GHz", {"fpu", "avx2", "avx512_vnni"})
    file.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n"
                    "CPU part\t: 0xd08\n")
    model, flags = environment._linux_cpu(str(file))
    assert model == "ARM implementer 0x41 part 0xd08" and "asimddp" in flags
    assert environment._linux_cpu(str(tmp_path / "absent")) == ("", set())


def test_it_needs_the_standard_library_only():
    code = ("import sys; from tfcompress.benchmark import environment, latency; "
            "environment.describe(); print('numpy' in sys.modules, 'tensorflow' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
