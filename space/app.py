"""What a Hugging Face Space runs: the demo, at the port that a Space shows."""

from absynth.demo.server import serve

if __name__ == "__main__":
    serve("0.0.0.0", 7860).block_thread()
