"""How people log in to Airflow: users and roles in its database, by Flask-AppBuilder.

An organisation's own directory takes the place of passwords here: AUTH_OAUTH or AUTH_LDAP with AUTH_ROLES_MAPPING onto the
roles of `roles.toml` (https://flask-appbuilder.readthedocs.io/en/latest/security.html).
"""

from datetime import timedelta

from flask_appbuilder.const import AUTH_DB

AUTH_TYPE = AUTH_DB
AUTH_USER_REGISTRATION = False
# Of guesses at a password, from one address.
AUTH_RATE_LIMITED = True
AUTH_RATE_LIMIT = "10 per 20 second"
WTF_CSRF_ENABLED = True
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
PERMANENT_SESSION_LIFETIME = timedelta(hours=10)
