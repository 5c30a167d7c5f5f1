// A stationary array with its operand memories, its control and its accumulators.
//
// result[x][y] = sum over d of left[x][d] * top[y][d], in words of LANES numbers. Fold f holds the
// top words of column block f / chunks, rows f % chunks of the sum; folds without `occupied` are
// passed over in no time. A fold is loaded as soon as its registers are free: serial once the last
// result of the fold before is out, double buffered once that fold has begun.
module stationary_engine #(
  parameter ROWS = 4,
  parameter COLUMNS = 4,
  parameter LANES = 1,
  parameter LEFT_BITS = 8,
  parameter TOP_BITS = 8,
  parameter DOUBLE = 0,
  parameter DRAIN = 1,  // sums always leave through the bottom row
  parameter WORDS = 4096,  // of each operand and of the result
  parameter FOLDS = 256
) (
  input clk,
  input reset,
  input [31:0] x_size,
  input [31:0] y_size,
  input [31:0] depth,
  output reg finished,
  output reg [31:0] cycles  // clocks from the first word in to the last result out
);
  localparam LEFT = LANES * LEFT_BITS;
  localparam TOP = LANES * TOP_BITS;
  // one-bit lanes that hold nothing must differ, so that they are not counted as equal
  localparam [TOP-1:0] NOTHING = (LEFT_BITS == 1 && TOP_BITS == 1) ? ~0 : 0;

  reg [LEFT-1:0] left_words [0:WORDS-1];
  reg [TOP-1:0] top_words [0:WORDS-1];
  reg signed [31:0] results [0:WORDS-1];
  reg occupied [0:FOLDS-1];

  wire [31:0] chunks = (depth + ROWS - 1) / ROWS;
  wire [31:0] folds = chunks * ((y_size + COLUMNS - 1) / COLUMNS);

  function [31:0] from_fold(input [31:0] start);  // the first occupied fold at or behind `start`
    reg [31:0] candidate;
    begin
      candidate = start;
      while (candidate < folds && !occupied[candidate]) candidate = candidate + 1;
      from_fold = candidate;
    end
  endfunction

  // control: one fold is loaded, one is streamed
  reg [31:0] load_fold, load_step, loaded_fold, stream_fold, stream_row;
  reg is_loaded, is_streaming, is_busy;
  wire [COLUMNS-1:0] valid_down;
  wire [COLUMNS*32-1:0] sums;
  reg [COLUMNS*32-1:0] out_row;
  reg [COLUMNS*32-1:0] out_fold;

  wire is_last_result = valid_down[COLUMNS-1] && out_row[(COLUMNS-1)*32 +: 32] == x_size - 1;
  wire begins = is_loaded && !is_streaming;
  wire streams = begins || is_streaming;
  wire [31:0] fold = begins ? loaded_fold : stream_fold;
  wire may_load = (DOUBLE != 0) ? (!is_loaded || begins) : (!is_busy || is_last_result);
  wire loads = load_step != 0 || (load_fold < folds && may_load);

  always @(posedge clk)
    if (reset) begin
      load_fold <= from_fold(0);
      load_step <= 0;
      stream_row <= 0;
      is_loaded <= 0;
      is_streaming <= 0;
      is_busy <= 0;
    end else begin
      if (is_last_result) is_busy <= 0;
      if (begins) is_loaded <= 0;
      if (loads) begin
        is_busy <= 1;
        load_step <= load_step + 1;
        if (load_step == ROWS - 1) begin
          load_step <= 0;
          is_loaded <= 1;
          loaded_fold <= load_fold;
          load_fold <= from_fold(load_fold + 1);
        end
      end
      if (streams) begin
        stream_fold <= fold;
        is_streaming <= stream_row != x_size - 1;
        stream_row <= stream_row == x_size - 1 ? 0 : stream_row + 1;
      end
    end

  // operands: the last row of the array is loaded first
  wire [31:0] load_depth = (load_fold % chunks) * ROWS + ROWS - 1 - load_step;
  wire [ROWS*LEFT-1:0] left;
  wire [COLUMNS*TOP-1:0] top;
  genvar i, j;
  generate
    for (i = 0; i < ROWS; i = i + 1) begin : left_port
      wire [31:0] d = (fold % chunks) * ROWS + i;
      assign left[i*LEFT +: LEFT] =
        streams && d < depth ? left_words[stream_row * depth + d] : {LEFT{1'b0}};
    end
    for (j = 0; j < COLUMNS; j = j + 1) begin : top_port
      wire [31:0] y = (load_fold / chunks) * COLUMNS + j;
      assign top[j*TOP +: TOP] =
        loads && y < y_size && load_depth < depth ? top_words[y * depth + load_depth] : NOTHING;
    end
  endgenerate

  stationary_array #(ROWS, COLUMNS, LANES, LEFT_BITS, TOP_BITS, DOUBLE) array (
    .clk(clk),
    .valid(streams && !reset),
    .first(begins && !reset),
    .left(left),
    .shift(loads && !reset),
    .top(top),
    .valid_down(valid_down),
    .sums(sums)
  );

  // accumulators: one port per column (some versions of Verilator refuse arrays that a loop writes
  // without blocking, so counters are vectors and the memory is written at once)
  integer c;
  reg [31:0] y_out;
  always @(posedge clk)
    if (reset) begin
      cycles <= 0;
      finished <= from_fold(0) == folds;
      for (c = 0; c < COLUMNS; c = c + 1) begin
        out_row[c*32 +: 32] <= 0;
        out_fold[c*32 +: 32] <= from_fold(0);
      end
    end else if (!finished) begin
      for (c = 0; c < COLUMNS; c = c + 1)
        if (valid_down[c]) begin
          y_out = (out_fold[c*32 +: 32] / chunks) * COLUMNS + c;
          if (y_out < y_size)
            results[out_row[c*32 +: 32] * y_size + y_out] =
              results[out_row[c*32 +: 32] * y_size + y_out] + $signed(sums[c*32 +: 32]);
          out_row[c*32 +: 32] <= out_row[c*32 +: 32] + 1;
          if (out_row[c*32 +: 32] == x_size - 1) begin
            out_row[c*32 +: 32] <= 0;
            out_fold[c*32 +: 32] <= from_fold(out_fold[c*32 +: 32] + 1);
          end
        end
      if (is_last_result && from_fold(out_fold[(COLUMNS-1)*32 +: 32] + 1) == folds) finished <= 1;
      else cycles <= cycles + 1;
    end
endmodule
