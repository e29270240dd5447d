"""Chooses the kind of virtual machine that this computer can run."""
import dataclasses
import os
import pathlib
import shutil

from . import image
from .errors import Unavailable

NAMES = ('uml', 'kvm', 'tcg')


@dataclasses.dataclass(frozen=True)
class Backend:
    name: str  # one of NAMES
    why: str
    folder: pathlib.Path  # contains the kernel built by kernel.py
    boot_timeout: float  # seconds; ten times the boot time on an idle computer


def kernel_folder(kind):
    return image.CACHE / f'lab-{kind}-{image.key(image.HERE / ("uml.config" if kind == "uml" else "stock.modules"))}'


def lacks_uml():
    if not (kernel_folder('uml') / 'version').exists():
        return 'its kernel is not built (./dev lab kernel, about 5 minutes)'
    return ''


def lacks_tcg():
    if not shutil.which('qemu-system-x86_64'):
        return 'qemu-system-x86_64 is not installed'
    if not (kernel_folder('stock') / 'version').exists():
        return 'its kernel is not downloaded (CARAVAN_LAB=tcg ./dev lab which, half a minute)'
    return ''


def lacks_kvm():
    # A cloud machine may have a /dev/kvm without hardware virtualisation (kvm_pvm): stock kernels do not boot there.
    modules = pathlib.Path('/sys/module')
    if not any((modules / name).is_dir() for name in ('kvm_intel', 'kvm_amd')) or (modules / 'kvm_pvm').is_dir():
        return 'no hardware virtualisation (neither kvm_intel nor kvm_amd is loaded)'
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        return 'this user may not access /dev/kvm'
    return lacks_tcg()


LACKS = {'uml': lacks_uml, 'kvm': lacks_kvm, 'tcg': lacks_tcg}
TIMEOUTS = {'uml': 30, 'kvm': 60, 'tcg': 120}


def choose(wanted=None):
    """Returns the Backend named by wanted, else by CARAVAN_LAB, else the fastest available: uml boots in a fraction of a
    second, kvm in seconds, tcg in ten seconds, on every computer. Raises Unavailable."""
    asked = wanted or os.environ.get('CARAVAN_LAB')
    if asked and asked not in NAMES:
        raise Unavailable(f'unknown backend {asked!r}; choose uml, kvm or tcg')
    reasons = []
    for name in [asked] if asked else NAMES:
        lack = LACKS[name]()
        if not lack:
            why = 'requested' if asked else '; '.join([*reasons, f'{name} is available'])
            return Backend(name, why, kernel_folder('uml' if name == 'uml' else 'stock'), TIMEOUTS[name])
        reasons.append(f'{name}: {lack}')
    raise Unavailable('no lab machine can run here: ' + '; '.join(reasons))
