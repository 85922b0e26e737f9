"""Networks: pure functions of parameters and images that know nothing of data or losses."""
