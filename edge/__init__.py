"""An edge inference appliance: language models next to the machines that need them."""

__version__ = "0.1.0"
