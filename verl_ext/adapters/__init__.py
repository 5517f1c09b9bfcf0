"""The only folder that imports verl, ray, omegaconf or transfer_queue."""
