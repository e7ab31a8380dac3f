"""`pip install .` without the lock, in a fresh environment, does the main job."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


def test_a_plain_install_does_the_main_job(tmp_path):
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns(".venv", ".git", "build", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", str(copy)]
    subprocess.run(install, check=True, cwd=tmp_path)
    shutil.rmtree(copy)  # what is installed has to be enough
    done = subprocess.run(
        [
            tmp_path / "venv" / "bin" / "tfcompress",
            "shrink",
            ROOT / "examples" / "digits.keras",
            "--data",
            ROOT / "examples" / "digits.npz",
            "--max-drop",
            "0.02",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"TFCOMPRESS_CACHE": str(tmp_path / "store")},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "digits-tfcompress" / "tflite-int8.tflite").is_file()
    assert (tmp_path / "digits-tfcompress" / "report.html").is_file()
