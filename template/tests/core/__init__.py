"""The core's own tests. `copier update` replaces them: put yours in tests/."""
