"""Adapter folders as PEFT writes them, made the same on every run."""
import json


def edit_config(folder, change):
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(change(config), indent=2) + "\n")  # PEFT has sorted the keys


def clean(folder, base):
    """Leave out what differs from run to run and machine to machine: paths, and the order of a Python set."""
    def change(config):
        config["base_model_name_or_path"] = base
        for key in ("target_modules", "exclude_modules", "modules_to_save"):
            if isinstance(config.get(key), list):
                config[key].sort()
        return config
    (folder / "README.md").unlink(missing_ok=True)
    edit_config(folder, change)
