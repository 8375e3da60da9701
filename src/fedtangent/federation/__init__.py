"""The contract: who holds a value, the verbs that move it, and what computes, sends and counts; nothing of learning."""
