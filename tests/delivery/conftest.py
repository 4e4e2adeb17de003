"""No deadlines: machines are shared, and a slow example is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile("guideway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("guideway")
