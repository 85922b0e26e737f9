"""Networks: pure functions of parameters and images, independent of data and losses."""
