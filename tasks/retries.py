"""What Airflow retries: what may pass. Import-light, since DAGs import it while they are parsed."""

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

LASTING = ("provenance.core.errors.InputError", "provenance.core.errors.CheckFailed")
RETRY_WHAT_MAY_PASS = ExceptionRetryPolicy(rules=[RetryRule(exception=error, action=RetryAction.FAIL) for error in LASTING])
