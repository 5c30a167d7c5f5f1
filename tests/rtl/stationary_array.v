// ROWS x COLUMNS cells that hold one operand while the other passes: weights stay and activations
// pass (weight stationary), or the other way round (input stationary).
//
// Held words shift down from the top, passing words enter from the left and sums leave at the
// bottom. All three move one cell per clock, along the same diagonal.
module stationary_cell #(
  parameter LANES = 1,
  parameter LEFT_BITS = 8,
  parameter TOP_BITS = 8,
  parameter DOUBLE = 0
) (
  input clk,
  input valid,  // `left` is a row of a fold
  input first,  // it is the first row
  input [LANES*LEFT_BITS-1:0] left,
  input shift,
  input [LANES*TOP_BITS-1:0] top,
  input signed [31:0] sum,
  output reg valid_right,
  output reg first_right,
  output reg [LANES*LEFT_BITS-1:0] right,
  output reg shift_down,
  output reg [LANES*TOP_BITS-1:0] down,
  output reg signed [31:0] sum_down
);
  reg [LANES*TOP_BITS-1:0] loading;
  reg [LANES*TOP_BITS-1:0] held;  // only when double buffered: frees `loading` for the next fold
  wire [LANES*TOP_BITS-1:0] operand = (DOUBLE == 0 || first) ? loading : held;
  wire signed [31:0] product;

  lanes #(LANES, LEFT_BITS, TOP_BITS) multiply (.left(left), .top(operand), .sum(product));

  initial begin
    valid_right = 0;
    first_right = 0;
    shift_down = 0;
  end

  always @(posedge clk) begin
    valid_right <= valid;
    first_right <= first;
    right <= left;
    shift_down <= shift;
    if (shift) begin
      loading <= top;
      down <= loading;
    end
    if (first) held <= loading;
    sum_down <= sum + product;
  end
endmodule

module stationary_array #(
  parameter ROWS = 4,
  parameter COLUMNS = 4,
  parameter LANES = 1,
  parameter LEFT_BITS = 8,
  parameter TOP_BITS = 8,
  parameter DOUBLE = 0
) (
  input clk,
  input valid,
  input first,
  input [ROWS*LANES*LEFT_BITS-1:0] left,  // row 0 in the lowest bits, all rows at once
  input shift,
  input [COLUMNS*LANES*TOP_BITS-1:0] top,  // column 0 in the lowest bits, all columns at once
  output [COLUMNS-1:0] valid_down,  // `sums` of this column is a result
  output [COLUMNS*32-1:0] sums
);
  localparam LEFT = LANES * LEFT_BITS;
  localparam TOP = LANES * TOP_BITS;

  wire [ROWS*(LEFT+2)-1:0] entering, from_left;
  wire [COLUMNS*(TOP+1)-1:0] loading, from_top;
  wire [LEFT+1:0] across [0:ROWS-1][0:COLUMNS];
  wire [TOP:0] downward [0:ROWS][0:COLUMNS-1];
  wire signed [31:0] partial [0:ROWS][0:COLUMNS-1];

  skew #(ROWS, LEFT + 2) skew_left (.clk(clk), .in(entering), .out(from_left));
  skew #(COLUMNS, TOP + 1) skew_top (.clk(clk), .in(loading), .out(from_top));

  genvar i, j;
  generate
    for (i = 0; i < ROWS; i = i + 1) begin : left_edge
      assign entering[i*(LEFT+2) +: LEFT+2] = {valid, first, left[i*LEFT +: LEFT]};
      assign across[i][0] = from_left[i*(LEFT+2) +: LEFT+2];
    end
    for (j = 0; j < COLUMNS; j = j + 1) begin : edges
      assign loading[j*(TOP+1) +: TOP+1] = {shift, top[j*TOP +: TOP]};
      assign downward[0][j] = from_top[j*(TOP+1) +: TOP+1];
      assign partial[0][j] = 0;
      assign sums[j*32 +: 32] = partial[ROWS][j];
      assign valid_down[j] = across[ROWS-1][j+1][LEFT+1];
    end
    for (i = 0; i < ROWS; i = i + 1) begin : row
      for (j = 0; j < COLUMNS; j = j + 1) begin : column
        stationary_cell #(LANES, LEFT_BITS, TOP_BITS, DOUBLE) cell_ (
          .clk(clk),
          .valid(across[i][j][LEFT+1]),
          .first(across[i][j][LEFT]),
          .left(across[i][j][LEFT-1:0]),
          .shift(downward[i][j][TOP]),
          .top(downward[i][j][TOP-1:0]),
          .sum(partial[i][j]),
          .valid_right(across[i][j+1][LEFT+1]),
          .first_right(across[i][j+1][LEFT]),
          .right(across[i][j+1][LEFT-1:0]),
          .shift_down(downward[i+1][j][TOP]),
          .down(downward[i+1][j][TOP-1:0]),
          .sum_down(partial[i+1][j])
        );
      end
    end
  endgenerate
endmodule
