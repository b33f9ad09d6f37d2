"""How healthy an on-policy run is: its checks, and whether it over-optimizes its reward."""
