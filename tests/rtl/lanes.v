// The sum of the products of two packed words, LANES pairs at once.
//
// Lane 0 lies in the lowest bits. Numbers are two's complement. Where both sides are one bit wide a
// bit stands for +1 or -1 and the sum counts equal bits (an xnor each, counted): the dot product
// of `lanes` pairs is 2 * equal - lanes, which the edge of the array works out once per result.
module lanes #(
  parameter LANES = 1,
  parameter LEFT_BITS = 8,
  parameter TOP_BITS = 8
) (
  input [LANES*LEFT_BITS-1:0] left,
  input [LANES*TOP_BITS-1:0] top,
  output reg signed [31:0] sum
);
  integer lane;
  reg signed [LEFT_BITS-1:0] a;
  reg signed [TOP_BITS-1:0] b;

  generate
    if (LEFT_BITS == 1 && TOP_BITS == 1) begin : signs
      always @* begin
        sum = 0;
        for (lane = 0; lane < LANES; lane = lane + 1)
          if (left[lane] == top[lane]) sum = sum + 1;
      end
    end else begin : integers
      always @* begin
        sum = 0;
        for (lane = 0; lane < LANES; lane = lane + 1) begin
          a = left[lane*LEFT_BITS +: LEFT_BITS];
          b = top[lane*TOP_BITS +: TOP_BITS];
          sum = sum + a * b;
        end
      end
    end
  endgenerate
endmodule
