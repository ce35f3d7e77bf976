"""Floor 7: the rule table, one module for each family. Importing this package fills the registry.

README.md says how to add a rule. A new family is a new file: nothing else lists the modules.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
