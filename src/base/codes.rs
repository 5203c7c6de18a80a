//! The registry of diagnostic codes: what each means, with an example that gives it and one that
//! does not.
//!
//! `E01…` text and syntax · `E02…` names and structure · `E03…` shapes, dtypes, attributes ·
//! `E04…` compile-time values · `E05…` limits · `E06…` core form · `E09…` files and values ·
//! `W01…` advice.
//! A code never changes its meaning; a retired one is not given again.

/// One code. The examples are whole files; `failing` is empty where no text of a model gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code {
    pub code: &'static str,
    pub title: &'static str,
    pub explanation: &'static str,
    pub failing: &'static str,
    pub corrected: &'static str,
}

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal, $why:literal, $bad:literal, $good:literal;)*) => {
        $(#[doc = $title] pub const $name: &str = $code;)*
        /// Every code, in order.
        pub static TABLE: &[Code] = &[$(Code {
            code: $code,
            title: $title,
            explanation: $why,
            failing: $bad,
            corrected: $good,
        }),*];
    };
}

codes! {
    USAGE = "E0001", "Wrong usage, or a file that cannot be read or written",
        "The call cannot be carried out as it stands. Exit status 2.",
        "", "";
    FAULT = "E0002", "An expectation failed",
        "What a call asked for does not hold. Exit status 1.",
        "", "";
    SYNTAX = "E0101", "The text is not in the language",
        "The parser expected something else at this place. It goes on at the next line that begins \
         with the keyword of an item, so one run reports the first error of each item.",
        "model m(x: f32[4]) { return relu(x }",
        "model m(x: f32[4]) { return relu(x) }";
    TOO_DEEP = "E0102", "Brackets nest too deep",
        "Brackets of all kinds may nest 256 deep.",
        "", "";
    NUMBER_RANGE = "E0103", "A number does not fit",
        "Integers are 64 bits wide with a sign; floats are at most 1.8e308. Infinity is `inf`.",
        "const big = 99999999999999999999",
        "const big = 999999999999999999";
    TOO_LARGE = "E0104", "The text is too long",
        "A file of the language is at most a gibibyte long. Large constants belong into weights.",
        "", "";
    NOT_UTF8 = "E0105", "The file is not text",
        "A `.dl` file is UTF-8. The place given is the first byte that is not.",
        "", "";
    UNKNOWN_NAME = "E0201", "Nothing has this name",
        "A name is a variable, a stage (`as`), a parameter of the block, a constant of the file, or \
         a dimension. Blocks see their arguments and the file's constants only.",
        "model m(x: f32[4]) { return relu(y) }",
        "model m(x: f32[4]) { return relu(x) }";
    UNKNOWN_CALLEE = "E0202", "There is no op, block or layer of this name",
        "What is called must be a block of the file, a layer, something imported (`zoo.resnet`), a \
         block of the standard library or an op. `dlc ops` lists the ops.",
        "model m(x: f32[4]) { return rleu(x) }",
        "model m(x: f32[4]) { return relu(x) }";
    UNKNOWN_ARG = "E0203", "There is no argument of this name",
        "The op or block takes no such argument. `dlc ops NAME` lists an op's attributes.",
        "model m(x: f32[2, 4]) { return softmax(x, dimension = 1) }",
        "model m(x: f32[2, 4]) { return softmax(x, axis = 1) }";
    MISSING_ARG = "E0204", "An argument is missing",
        "An argument without a default was not given.",
        "model m(x: f32[2, 4]) { return x |> dense as d }",
        "model m(x: f32[2, 4]) { return x |> dense(3) as d }";
    TOO_MANY_ARGS = "E0205", "Too many arguments",
        "More arguments were given than the op or block takes, or one of them twice.",
        "model m(x: f32[4]) { return relu(x, 1, 2) }",
        "model m(x: f32[4]) { return relu(x) }";
    DUPLICATE = "E0206", "A name is declared twice",
        "Models, blocks, constants, imports and dimensions of one file share their names' space; so \
         do the parameters of one block.",
        "block f(x) { return x }\nblock f(x) { return -x }",
        "block f(x) { return x }\nblock g(x) { return -x }";
    DUPLICATE_STAGE = "E0207", "Two stages have the same name",
        "A stage's name is the scope of its parameters, so it must be unique in its block.",
        "model m(x: f32[2, 4]) { return x |> dense(4) as a |> dense(4) as a }",
        "model m(x: f32[2, 4]) { return x |> dense(4) as a |> dense(4) as b }";
    BARE_AS_IN_REPEAT = "E0208", "A name inside `repeat` needs an index",
        "Each round makes parameters of its own. Give the name an index: `as h[i]` makes the paths \
         `h.0.weight`, `h.1.weight` and so on.",
        "model m(x: f32[2, 4]) { repeat i in 0..2 { x = x |> dense(4) as h }\nreturn x }",
        "model m(x: f32[2, 4]) { repeat i in 0..2 { x = x |> dense(4) as h[i] }\nreturn x }";
    RECURSION = "E0209", "A block contains itself",
        "Blocks are written out where they are called, so one that calls itself has no end. To do \
         something several times use `repeat`; over the steps of a sequence, `scan`.",
        "block f(x) { return f(x) }\nmodel m(x: f32[4]) { return f(x) }",
        "block f(x) { return relu(x) }\nmodel m(x: f32[4]) { return f(x) }";
    IMPORT_CYCLE = "E0210", "Files import each other in a circle",
        "Move what both need into a third file.",
        "", "";
    IMPORT_FAILED = "E0211", "An imported file cannot be read",
        "Paths are relative to the file that imports.",
        "import \"missing.dl\" as zoo", "";
    WRONG_KIND = "E0212", "A value of another kind is needed here",
        "A tensor stands where a compile-time value is needed, a layer where a tensor is needed, or \
         the like.",
        "model m(x: f32[2, 4]) { return x + \"a\" }",
        "model m(x: f32[2, 4]) { return x + 1 }";
    UNKNOWN_MODEL = "E0213", "There is no model of this name",
        "`weights` and `train` name a model of the same file.",
        "model m(x: f32[4]) { return x }\nweights n from \"n.safetensors\"",
        "model m(x: f32[4]) { return x }\nweights m from \"n.safetensors\"";
    UNKNOWN_MEMBER = "E0214", "There is no member of this name",
        "Tensors have `shape`, `rank` and `dtype`; layers have their parameters; the result of a \
         block or model has its names.",
        "model m(x: f32[4]) { return x + x.size[0] }",
        "model m(x: f32[4]) { return x + x.shape[0] }";
    RESULT_COUNT = "E0215", "The number of results differs",
        "A block returns as many values as stand behind its `return`.",
        "model m(x: f32[4]) { a, b = relu(x)\nreturn a }",
        "model m(x: f32[4]) { a = relu(x)\nreturn a }";
    MISSING_RETURN = "E0216", "Nothing is returned",
        "A model or block ends with `return`; an `if` that gives a value needs one in each arm.",
        "model m(x: f32[4]) { y = relu(x) }",
        "model m(x: f32[4]) { y = relu(x)\nreturn y }";
    MISPLACED = "E0217", "This does not belong here",
        "`:=` changes a `state` of the same block; parameters and states are declared outside of \
         run-time regions; nothing follows `return`.",
        "model m(x: f32[4]) { y = x\ny := x + 1\nreturn y }",
        "model m(x: f32[4]) { state y: f32[4] = 0\ny := x + 1\nreturn y }";
    LOSS_ON_PROBABILITIES = "E0218", "A loss takes logits",
        "Losses apply softmax or sigmoid themselves, in a form that does not overflow.",
        "model m(x: f32[2, 4], y: i32[2]) { p = x |> dense(3) as logits |> softmax\n\
         return cross_entropy(p, y) }",
        "model m(x: f32[2, 4], y: i32[2]) { z = x |> dense(3) as logits\n\
         return cross_entropy(z, y) }";
    BAD_TRAIN = "E0219", "A `train` block is not complete",
        "It needs a scalar loss and an optimizer; the settings are `epochs`, `batch_size`, `seed` \
         and the like.",
        "model m(x: f32[2, 4]) { return x |> dense(3) as d }\n\
         train m { loss mean(d) epohcs = 3 optimizer sgd(lr = 0.1) }",
        "model m(x: f32[2, 4]) { return x |> dense(3) as d }\n\
         train m { loss mean(d) epochs = 3 optimizer sgd(lr = 0.1) }";
    BAD_WEIGHTS_CLAUSE = "E0220", "A `weights` clause does not fit",
        "The right side of a rename is a name in the file, then possibly `|> transpose` or \
         `|> permute(…)`; a `*` stands on both sides or on none.",
        "model m(x: f32[4]) { return x }\nweights m from \"n.safetensors\" { a = 3 }",
        "model m(x: f32[4]) { return x }\nweights m from \"n.safetensors\" { a = \"b\" }";
    SHAPE = "E0301", "Shapes do not fit",
        "Shapes are aligned at the right; an extent of 1 stretches to the other's. Open dimensions \
         fit themselves and 1 only.",
        "model m(x: f32[2, 4], y: f32[3]) { return x + y }",
        "model m(x: f32[2, 4], y: f32[4]) { return x + y }";
    DTYPE = "E0302", "Dtypes do not fit",
        "Tensors of different dtypes do not mix by themselves; `cast(x, f32)` converts. Literals \
         take the dtype of the tensor beside them.",
        "model m(x: f32[4], y: i32[4]) { return x + y }",
        "model m(x: f32[4], y: i32[4]) { return x + cast(y, f32) }";
    ATTRIBUTE = "E0303", "An attribute has a wrong value",
        "The value is of the wrong kind or outside its range.",
        "model m(x: f32[2, 4]) { return softmax(x, axis = 5) }",
        "model m(x: f32[2, 4]) { return softmax(x, axis = 1) }";
    OVERFLOW = "E0304", "A dimension overflows",
        "Extents and the number of elements are counted in 64 bits.",
        "model m(x: f32[4611686018427387904, 4]) { return x }",
        "model m(x: f32[4611, 4]) { return x }";
    UNBOUND = "E0305", "A value is missing",
        "An input, a parameter or a dimension has no value yet.",
        "", "";
    TYPE_MISMATCH = "E0306", "The type is not the declared one",
        "A parameter, a state or an input has a declared type, and the value differs from it.",
        "model m(x: f32[4]) { state s: f32[4] = 0\ns := x[0:2]\nreturn x }",
        "model m(x: f32[4]) { state s: f32[4] = 0\ns := x\nreturn x }";
    REGION = "E0307", "A region does not fit its op",
        "The region of `scan`, `cond` or `do` takes or gives values of other types than the op.",
        "", "";
    UNKNOWN_DIM = "E0310", "There is no such dimension",
        "A binding names an open dimension of the model: one that its inputs mention.",
        "", "";
    DIM_RANGE = "E0311", "A dimension is out of its range",
        "`dim n in 1..=64` bounds what a dimension may be; both ends are included.",
        "", "";
    INPUT_SHAPE = "E0312", "An input has another shape",
        "The shapes of all inputs must fit the model's types with one value for each dimension.",
        "", "";
    OPEN_DIM = "E0313", "A dimension is open",
        "No input determines it, so it must be set.",
        "", "";
    DEEP_COMPOSITES = "E0390", "Composites nest too deeply",
        "The definition of an op leads back to itself: a bug of dlc.",
        "", "";
    CT_KIND = "E0401", "The operator does not take these values",
        "At compile time, arithmetic takes numbers, `and` and `or` take booleans, `+` also joins \
         lists and texts.",
        "const a = [1] * 2",
        "const a = [1] + [2]";
    INEXACT = "E0402", "The division does not come out even",
        "At compile time `/` divides exactly. `floordiv(a, b)` rounds down.",
        "const a = 7 / 2",
        "const a = floordiv(7, 2)";
    CT_OVERFLOW = "E0403", "A compile-time number overflows",
        "Integers at compile time are 64 bits wide.",
        "const a = 10 ** 30",
        "const a = 10 ** 18";
    NOT_CONSTANT = "E0404", "This must be known at compile time",
        "`if` and `repeat` unroll at compile time, and attributes are fixed then. What depends on \
         tensors is chosen with `where` or `cond`.",
        "model m(x: f32[4]) { return if sum(x) > 0 { x } else { -x } }",
        "model m(x: f32[4]) { return where(sum(x) > 0, x, -x) }";
    INDEX_RANGE = "E0405", "An index is out of range",
        "Indices run from 0; negative ones count from the end.",
        "model m(x: f32[4]) { return x + x.shape[1] }",
        "model m(x: f32[4]) { return x + x.shape[0] }";
    BAD_DIM = "E0406", "A dimension is not one",
        "A dimension is an integer that is not negative, or an expression over open dimensions; \
         bounds are integers, the lower first.",
        "dim n in 8..=4",
        "dim n in 4..=8";
    CHAINED = "E0407", "Comparisons do not chain",
        "`a < b < c` would compare a boolean with c. Write `a < b and b < c`.",
        "const a = 1 < 2 < 3",
        "const a = 1 < 2 and 2 < 3";
    REPEAT_LIMIT = "E0501", "Too many rounds",
        "All `repeat` rounds of a model together are at most a million.",
        "model m(x: f32[4]) { repeat i in 0..2000000 { x = x }\nreturn x }",
        "model m(x: f32[4]) { repeat i in 0..20 { x = x }\nreturn x }";
    NODE_LIMIT = "E0502", "The model has too many nodes",
        "A model has at most a million ops.",
        "", "";
    WORK_LIMIT = "E0503", "The model takes too long to write out",
        "Evaluating the compile-time part took more steps than the limit allows.",
        "", "";
    CALL_DEPTH = "E0504", "Blocks call each other too deep",
        "Calls of blocks nest at most 64 deep.",
        "", "";
    CORE = "E0601", "The core form is not sound",
        "A value is used before its definition or defined twice, or a statement does not fit the op.",
        "graph g(%x: f32[4]) { %0: f32[4] = relu(%y)\nyield y = %0 }",
        "graph g(%x: f32[4]) { %0: f32[4] = relu(%x)\nyield y = %0 }";
    CORE_TYPE = "E0602", "The written type is not the inferred one",
        "The core form repeats each result's type; it must be the one that the op gives.",
        "graph g(%x: f32[4]) { %0: f32[5] = relu(%x)\nyield y = %0 }",
        "graph g(%x: f32[4]) { %0: f32[4] = relu(%x)\nyield y = %0 }";
    NO_PLAN = "E0701", "The arena cannot be planned",
        "The buffers of a program take more bytes than addresses have room for.",
        "", "";
    NO_KERNEL = "E0702", "An op has no kernel",
        "A group of ops cannot be written as loops. This is a bug of dlc; `-O0` or `--target reference` may help.",
        "", "";
    PASS_FAILED = "E0705", "A pass failed",
        "A pass met an op that it cannot handle, or left a graph that does not verify. This is a bug of dlc.",
        "", "";
    OPEN_DIMENSION = "E0706", "A dimension is open",
        "The command needs all dimensions to be known. Bind them with `--set NAME=INT`.",
        "", "";
    MISSING_INPUT = "E0707", "An input is missing",
        "Every input of the model needs a value: `--input NAME=VALUE`, or `--random` for all that are not given.",
        "", "";
    INPUT_DTYPE = "E0708", "An input has another dtype",
        "Inputs are not converted. Give the value in the dtype that the model declares.",
        "", "";
    UNKNOWN_INPUT = "E0709", "There is no such input",
        "`dlc inspect MODEL inputs` lists the inputs.",
        "", "";
    UNKNOWN_VALUE = "E0710", "There is no such value",
        "`--outputs` takes names of outputs and of stages (`as`).",
        "", "";
    WEIGHT_TYPE = "E0711", "A weight does not fit its parameter",
        "The dtype and shape of a stored tensor must be those of the parameter. A rename table can permute axes.",
        "", "";
    OVER_BUDGET = "E0712", "The arena is larger than the budget",
        "`--mem-budget` refuses programs whose arena takes more bytes.",
        "", "";
    MISSING_WEIGHTS = "E0713", "Parameters have no weights",
        "A model whose parameters are bound nowhere runs only with `--weights FILE.safetensors` or `--weights random`.",
        "", "";
    BAD_PERMUTATION = "E0714", "Axes cannot be permuted like this",
        "A permutation in a rename table names each axis of the stored tensor once; `[-1]` reverses all.",
        "", "";
    UNKNOWN_TARGET = "E0801", "There is no such target",
        "`dlc doctor` lists the targets.",
        "", "";
    LATER_TARGET = "E0802", "The target comes with a later version",
        "The name is known, but this version cannot compile for it yet.",
        "", "";
    FOREIGN_TARGET = "E0803", "The target does not run on this processor",
        "Code for it can be made and looked at, but not run here.",
        "", "";
    BAD_PROGRAM = "E0851", "A program breaks a rule",
        "This is a bug of dlc.",
        "", "";
    BAD_KERNEL = "E0852", "A kernel cannot be compiled or run",
        "This is a bug of dlc.",
        "", "";
    NO_MEMORY = "E0853", "There is not enough memory",
        "The system refused memory for buffers or machine code.",
        "", "";
    INPUT_BYTES = "E0854", "A buffer of the wrong size",
        "The bytes given do not fit the dtype and shape of the input or state.",
        "", "";
    NO_ADAPTER = "E0860", "There is no such GPU adapter",
        "No driver for Vulkan or Metal was found, or none of its adapters has the name that was asked for. \
         `dlc doctor` lists the adapters.",
        "", "";
    DEVICE_REFUSED = "E0861", "A GPU adapter does not open",
        "The driver refused to make a device of the adapter; the message is the driver's.",
        "", "";
    NO_SHADER = "E0862", "The GPU cannot compute this",
        "Shaders of this adapter have no such type, or a buffer has too many elements. `--target cpu` computes everything.",
        "", "";
    MANY_BUFFERS = "E0863", "A kernel takes more buffers than the GPU allows",
        "The adapter limits how many buffers one shader may use.",
        "", "";
    BAD_SHADER = "E0864", "A shader was refused",
        "This is a bug of dlc, or of the driver.",
        "", "";
    DEVICE_MEMORY = "E0865", "A value is too large for the GPU",
        "The device has not enough memory, or limits how much of a buffer one shader may use.",
        "", "";
    DEVICE_FAILED = "E0866", "The GPU failed",
        "The device was lost, or refused a command; the message is the driver's.",
        "", "";
    MANY_LAUNCHES = "E0867", "A run has too many launches for the GPU",
        "Repeats are written out on the GPU, up to a million launches.",
        "", "";
    NO_MATRICES = "E0868", "The GPU has no cooperative matrices",
        "Products were asked for by matrices that a subgroup multiplies together (tensor cores): of f16, 8 × 8 or 16 × 16.",
        "", "";
    NO_CLOCK = "E0869", "The GPU does not time launches",
        "`bench --profile` reads the device's own clock before and after each launch, and this adapter has none for that.",
        "", "";
    QUEUE_LINE = "E0870", "A line of a file of queues is wrong",
        "Each line of a file for `--place` is a pattern and one of the queues `cpu` and `gpu`; `#` begins a comment.",
        "", "";
    QUEUE_PATTERN = "E0871", "A pattern names nothing",
        "A pattern in a file for `--place` is the name of a value as `dlc inspect MODEL graph` prints it, or `op:` and \
         the name of an op; `*` stands for any text. Inputs and parameters have no queue.",
        "", "";
    QUEUE_TARGET = "E0872", "The target has no queues",
        "`--place` chooses between machine code and shaders: it takes the target `cpu`, one of its variants, or `gpu`.",
        "", "";
    TWO_QUEUES = "E0873", "The model is on two queues",
        "What was asked for is there only for a model that one queue computes: `--place cpu`, or `--place gpu`.",
        "", "";
    NOT_CARRIED = "E0874", "An output does not fit an input",
        "An output that is to be an input of the next run must have the same element type and shape.",
        "", "";
    FILE_SYSTEM = "E0901", "The system refused a file",
        "The file does not exist, may not be read or written, or the disk is full; the \
         message says which. The exit status is 2.",
        "", "";
    FILE_KIND = "E0902", "The file is of another kind",
        "Its first bytes are not those of the format that is expected here. A file is read by \
         what its name ends in: `.npy`, `.npz`, `.safetensors`, `.dlm`.",
        "", "";
    FILE_SHORT = "E0903", "The file ends too early",
        "Its header promises more bytes than there are. Copy or download the file again.",
        "", "";
    FILE_DAMAGED = "E0904", "The file is damaged",
        "It is of the right kind, and its parts contradict each other: tensors that overlap, \
         a header that is no header, entries that should not be there.",
        "", "";
    FILE_ELEMENT = "E0905", "An element type is not supported",
        "Element types are f32, f64, f16, bf16, i8 to i64, u8 to u64 and bool. NumPy has no \
         bf16; objects, texts, complex numbers and records are not tensors.",
        "", "";
    FILE_SHAPE = "E0906", "A shape is too large",
        "The number of elements overflows 64 bits, or there are more than 64 axes.",
        "", "";
    FILE_SIZE = "E0907", "The data does not fit the shape",
        "The file holds more bytes than its shape needs.",
        "", "";
    FILE_ENTRY = "E0908", "There is no entry of that name",
        "The message lists the names that are there.",
        "", "";
    FILE_TWICE = "E0909", "A name occurs twice",
        "Two tensors or entries of one file have the same name, so that it is not known which \
         is meant.",
        "", "";
    FILE_ALTERED = "E0910", "A file was altered",
        "A part of a compiled model does not agree with the checksum that was stored with it. \
         Compile it again.",
        "", "";
    FILE_VERSION = "E0911", "A version that this release does not read",
        "The file was written by another release of dlc, or in another version of its format. \
         Compile the model again.",
        "", "";
    FILE_LIMIT = "E0912", "A file asks for too much memory",
        "A header, an entry of an archive or a pipe is larger than a stated limit; \
         `docs/values.md` lists them.",
        "", "";
    VALUE_TEXT = "E0913", "The text is not a value",
        "A value is `@file.npy`, `@file.npz:key`, `f32[2,3]:1,2,3,4,5,6`, or plain numbers \
         where the type is known.",
        "", "";
    VALUE_RANGE = "E0914", "A number does not fit its type",
        "The type cannot hold it: 256 as u8, 1e39 as f32. Infinity is written `inf`.",
        "", "";
    VALUE_TYPE = "E0915", "A value has another type than is wanted",
        "Dtype and shape must be those of the model; nothing is converted in silence. In \
         NumPy: `x.astype(np.float32)`.",
        "", "";
    VALUE_LATER = "E0916", "A form that is not supported yet",
        "This release does not read or write values in that form. The exit status is 2.",
        "", "";
    UNNAMED_STAGE = "W0101", "A stage with parameters has no name",
        "Its parameters are named after the op and a number (`dense`, `dense_1`), which changes when \
         a stage is inserted before it. A name keeps stored weights valid.",
        "model m(x: f32[2, 4]) { return x |> dense(3) }",
        "model m(x: f32[2, 4]) { return x |> dense(3) as out }";
    TUNED_ELSEWHERE = "W0102", "A compiled model was tuned on another machine",
        "What `--tune` found holds for the processor that it was measured on. Here those choices are \
         ignored: results are the same. `dlc compile MODEL.dlm --tune SECONDS` measures anew.",
        "", "";
    WRONG_MATRICES = "W0103", "Cooperative matrices give wrong sums here",
        "A product of small integers, computed before tensor cores are used for the first time, was wrong. Products are \
         computed without them, which is slower. A newer driver may help.",
        "", "";
    BEYOND_HALF = "W0104", "A parameter is too large for f16",
        "`--precision f16` rounds parameters of products to 16 bits, whose largest number is 65504: larger ones become \
         infinite. `--precision bf16` has the range of f32.",
        "", "";
}

/// The row of a code.
pub fn find(code: &str) -> Option<&'static Code> {
    TABLE.iter().find(|c| c.code.eq_ignore_ascii_case(code))
}
