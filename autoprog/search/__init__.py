"""The search: measured costs, one-shot estimates and the controller that decides when to grow."""
