"""A script with transformers' own Trainer."""

import sys
import tempfile

import torch
import transformers


def llama(width):
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config)


width = int(sys.argv[1]) if sys.argv[1:] else 128
tokens = torch.randint(64, (64, 32), generator=torch.Generator().manual_seed(0))
data = [{"input_ids": row, "labels": row} for row in tokens]
arguments = transformers.TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    max_steps=4,
    learning_rate=1e-2,
    weight_decay=0.1,
    use_cpu=True,
    report_to=[],
    save_strategy="no",
    disable_tqdm=True,
)
trainer = transformers.Trainer(model_init=lambda: llama(width), args=arguments, train_dataset=data)
print(f"width {width}: loss {trainer.train().training_loss:.4f}")
