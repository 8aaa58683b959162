-- pb.stats: the functions of patchbay.stats, loaded when the first one is called.
local pb, core = ...

local module

local function lazy(name)
  return function(...)
    module = module or core.load "stats.lua"()
    return module[name](...)
  end
end

pb.stats = { attention = lazy "attention", bootstrap = lazy "bootstrap", correlation = lazy "correlation" }
