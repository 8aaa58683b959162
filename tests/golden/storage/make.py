# Made the files beside it, once, with torch 2.13: python make.py tests/golden/models/gpt2 tests/golden/storage
import torch, json, os, sys, collections, pickle, zipfile, io
from safetensors.torch import load_file
out = sys.argv[2]; os.makedirs(out, exist_ok=True)
src = sys.argv[1]
sd=load_file(src+'/model.safetensors')
cfg=open(src+'/config.json').read()
def folder(n):
    d=os.path.join(out,n); os.makedirs(d,exist_ok=True); open(d+'/config.json','w').write(cfg); return d
# plain fp32, as modules save it (OrderedDict with _metadata), protocol 2
od=collections.OrderedDict(sd); od._metadata={'':{'version':1}}
torch.save(od, folder('bin')+'/pytorch_model.bin')
# bf16 parameters, protocol 5, under "state_dict", one weight transposed in its storage
p={k: torch.nn.Parameter(v.to(torch.bfloat16)) for k,v in sd.items()}
k='transformer.h.0.mlp.c_fc.weight'
p[k]=torch.nn.Parameter(p[k].data.t().contiguous().t()); assert not p[k].is_contiguous()
torch.save({'state_dict':p,'epoch':3}, folder('bin-bf16')+'/pytorch_model.bin', pickle_protocol=5)
# half + double mixed, two shards, weights that share one storage at offsets
names=sorted(sd); a,b=names[:len(names)//2],names[len(names)//2:]
d=folder('bin-sharded')
f1,f2='pytorch_model-00001-of-00002.bin','pytorch_model-00002-of-00002.bin'
flat=torch.cat([sd[n].flatten() for n in a]).half(); at=0; s1={}
for n in a:
    c=sd[n].numel(); s1[n]=flat[at:at+c].view(sd[n].shape); at+=c
torch.save(s1,d+'/'+f1); torch.save({n:sd[n].half().double() for n in b},d+'/'+f2,pickle_protocol=4)
json.dump({'metadata':{},'weight_map':{**{n:f1 for n in a},**{n:f2 for n in b}}},open(d+'/pytorch_model.bin.index.json','w'),indent=1)
# small ones
os.makedirs(out+'/files',exist_ok=True); F=out+'/files/'
t={'a':torch.arange(6,dtype=torch.float32).view(2,3),'b':torch.arange(4),'c':torch.tensor(2.5,dtype=torch.float16),'d':torch.zeros(0,3),
   'e':torch.arange(12,dtype=torch.float32).view(3,4).t(),'f':torch.arange(10,dtype=torch.float32)[3:7],'g':torch.tensor([True,False]),'h':torch.arange(5,dtype=torch.int32)}
torch.save(t,F+'small.pt')
torch.save({'a':torch.arange(3.)},F+'tiny.pt')
torch.save({'a':torch.zeros(1).expand(1000)},F+'expanded.pt')
class Evil:
    def __reduce__(self): return (os.system,('touch was_executed',))
torch.save({'a':torch.zeros(2),'b':Evil()},F+'forbidden.pt')
torch.save({'a':torch.zeros(2),'n':3},F+'number.pt')
torch.save([torch.zeros(2)],F+'list.pt')
torch.save(torch.nn.Linear(2,2),F+'module.pt')
torch.save({'a':torch.zeros(2)},F+'legacy.pt',_use_new_zipfile_serialization=False)
torch.jit.save(torch.jit.script(torch.nn.Linear(2,2)),F+'script.pt')
with zipfile.ZipFile(F+'tiny.pt') as z:
    with zipfile.ZipFile(F+'deflated.pt','w',zipfile.ZIP_DEFLATED) as y:
        for i in z.infolist(): y.writestr(i.filename,z.read(i))
