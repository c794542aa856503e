"""The presets: ``<kind>-<preset>.yaml``, every default with its unit and source."""
