"""What Airflow retries: what may pass. Import-light, since DAGs import it while they are parsed."""

from datetime import timedelta

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

LASTING = (
    "provenance.core.errors.InputError",
    "provenance.core.errors.CheckFailed",
    "airflow.providers.standard.exceptions.HITLRejectException",  # who said no is not asked again
)
# Of every DAG's `default_args`.
RETRY_WHAT_MAY_PASS = {
    "retries": 2,
    "retry_delay": timedelta(minutes=1),
    "retry_policy": ExceptionRetryPolicy(rules=[RetryRule(exception=error, action=RetryAction.FAIL) for error in LASTING]),
}
