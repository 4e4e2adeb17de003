"""What aiokafka, or the stand-in broker, does wrong or cannot do, mended."""
