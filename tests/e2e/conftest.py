import subprocess
import sys

import pytest

from harness import Lab
from system import BIN, MAKE_MODELS, PATIENCE, SANITIZE


@pytest.fixture
def lab(tmp_path, request):
    """Starts processes for one test, and sees that none is left and that no sanitizer complained."""
    lab = Lab(tmp_path)
    request.node.lab = lab
    try:
        yield lab
    finally:
        lab.close()
    reports = lab.sanitizer_reports()
    assert not reports, '\n'.join(reports)


@pytest.fixture(scope='session')
def models(tmp_path_factory):
    """A folder with a small random model of each architecture."""
    folder = tmp_path_factory.mktemp('models')
    subprocess.run([sys.executable, MAKE_MODELS, folder], check=True, stdout=subprocess.DEVNULL,
                   timeout=PATIENCE)
    return folder


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    lab = getattr(item, 'lab', None)
    if report.failed and lab is not None:
        report.sections.extend(lab.story())


def pytest_report_header():
    return f'caravan: {BIN}, sanitizers: {SANITIZE or "none"}'
