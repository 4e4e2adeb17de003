"""Every topic, group, header and client name of guideway. No other place spells one out."""
