"""Problems with a right answer: `problem` says what a row of one may be, `sources` where they come from and which are
held out.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
from tinsmith.cookbook.problems.problem import Problem, read_problem
from tinsmith.cookbook.problems.sources import Problems, load_problems

__all__ = ["Problem", "Problems", "load_problems", "read_problem"]
