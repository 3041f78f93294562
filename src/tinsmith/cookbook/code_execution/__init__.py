"""Running generated code for a reward: a program, a problem with tests, a grade.

`sandbox` is the seam, `local_sandbox` what is behind it here (`walls`, `runner`, `limits`; `inside/` is what runs on
the other side). `problems`, `extract` and `grading` make a grade of an answer, comparing with `values`.
"""

from tinsmith.cookbook.code_execution.extract import Extracted as Extracted
from tinsmith.cookbook.code_execution.extract import extract_code as extract_code
from tinsmith.cookbook.code_execution.grading import CodeGrade as CodeGrade
from tinsmith.cookbook.code_execution.grading import TestResult as TestResult
from tinsmith.cookbook.code_execution.grading import grade_code as grade_code
from tinsmith.cookbook.code_execution.limits import Limits as Limits
from tinsmith.cookbook.code_execution.local_sandbox import LocalSandbox as LocalSandbox
from tinsmith.cookbook.code_execution.problems import CallTest as CallTest
from tinsmith.cookbook.code_execution.problems import CodeProblem as CodeProblem
from tinsmith.cookbook.code_execution.problems import OutputTest as OutputTest
from tinsmith.cookbook.code_execution.sandbox import Executed as Executed
from tinsmith.cookbook.code_execution.sandbox import Sandbox as Sandbox
from tinsmith.cookbook.code_execution.sandbox import SandboxError as SandboxError
from tinsmith.cookbook.code_execution.sandbox import reason_of as reason_of
