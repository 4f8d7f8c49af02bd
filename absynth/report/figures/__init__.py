"""The numbered figures of the report, one module each kind."""
