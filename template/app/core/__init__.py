"""The machinery of the service. `copier update` replaces it: put your own code elsewhere."""
