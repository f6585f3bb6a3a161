"""What happens to the data: one folder is one step, one file in it is one model.

A folder `stages/<step>/` of your own on `PYTHONPATH` adds models without touching these.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
