-- Reference: downloads from the Hugging Face hub.
return {
  { name = "get", signature = "patchbay get ORG/NAME[@REVISION]", summary = "Download a model of the Hugging Face hub, on the command line.",
    text = [[
Afterwards pb.load "org/name" finds it, with or without @revision: a branch, a tag, or (the beginning of) a commit; "main" without one.
Only what a load needs is fetched: config.json, tokenizer.json, tokenizer_config.json, and the weights (model.safetensors or the
files of its index, else the same of pytorch_model.bin). The folder is printed. What is there already is not fetched again; an
interrupted download goes on where it ended, with the same command. Contents are checked (SHA-256; git's SHA-1 of small files).

The cache is the one of the hub's own tools, in their layout: what they downloaded is found, and they find what this downloads.
HF_HUB_CACHE, or HF_HOME with /hub behind it, says where it is (~/.cache/huggingface/hub). HF_ENDPOINT names another hub. HF_TOKEN,
or the file 'token' in HF_HOME, is for models that need a login; it is sent to the hub alone, and never printed. With
HF_HUB_OFFLINE=1 nothing is fetched. Proxies: https_proxy, NO_PROXY. Certificates: SSL_CERT_FILE. A recipe cannot download.]],
    example = [[local model = pb.load "EleutherAI/pythia-70m@step1000"  -- after: patchbay get EleutherAI/pythia-70m@step1000]] },
}
