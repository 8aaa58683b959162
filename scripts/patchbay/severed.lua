-- Which modules does a restored state work through? (Meng et al. 2022, figure 3.) A block's output at the last subject token is restored while the
-- outputs of the MLPs, or of attention, above it at the same token keep their corrupted values. What is lost against nothing held passed
-- through them. trace.severed is this file's function.
local pb = require "patchbay"

local LAST_SUBJECT_TOKEN = 2 -- its place among the classes of trace.average

-- trace.severed(model, facts | set [, options of trace.average]) -> grid [severed, layer]: average indirect effects with standard errors
return function(model, facts, given)
  local trace, rows, errors, first = require "patchbay.trace", {}, {}, nil
  for i, severed in ipairs { false, "mlp", "attn" } do
    local o = { kinds = { "block" }, sever = severed or nil }
    for key, value in pairs(given or {}) do
      if key == "kinds" or key == "sever" then pb.fail("trace.severed: %s is not an option here: blocks are restored, MLPs and attention severed in turn", key) end
      o[key] = value
    end
    local all = trace.average(model, facts, o)
    first = first or all
    rows[i] = all.block.values:select(1, LAST_SUBJECT_TOKEN):contiguous()
    errors[i] = all.block.se and all.block.se:select(1, LAST_SUBJECT_TOKEN):contiguous()
  end
  return pb.grid { values = pb.stack(rows), se = errors[1] and pb.stack(errors), axes = { "severed", "layer" }, labels = { severed = { "nothing", "MLPs", "attention" } },
                   base = 0, target = first.ate, unit = "average indirect effect", metric = "prob of the answer", name = "last subject token", about = first.block.about }
end
