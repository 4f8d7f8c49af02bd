"""Attacks: every distance found here is an upper bound on a model's robustness, never a proof of it.

>>> from absynth.attacks import suite_attacks
>>> [attack.name for attack in suite_attacks("quick", "linf")]
['fgsm', 'bim', 'pgd', 'mim', 'deepfool', 'fmn', 'uniform-noise']
"""

from absynth.attacks.base import Attack, AttackResult
from absynth.attacks.callable import Callable
from absynth.attacks.catalog import SUITES
from absynth.attacks.course import Course
from absynth.attacks.suites import attack, closest, find_attack, suite_attacks

__all__ = [
    "SUITES",
    "Attack",
    "AttackResult",
    "Callable",
    "Course",
    "attack",
    "closest",
    "find_attack",
    "suite_attacks",
]
