// Delays port i by i clocks, so that what enters together meets along a diagonal of the array.
module skew #(
  parameter PORTS = 4,
  parameter WIDTH = 8
) (
  input clk,
  input [PORTS*WIDTH-1:0] in,
  output [PORTS*WIDTH-1:0] out
);
  assign out[0 +: WIDTH] = in[0 +: WIDTH];

  genvar port, stage;
  generate
    for (port = 1; port < PORTS; port = port + 1) begin : line
      for (stage = 0; stage < port; stage = stage + 1) begin : delay
        reg [WIDTH-1:0] word = 0;
        if (stage == 0) begin : head
          always @(posedge clk) word <= in[port*WIDTH +: WIDTH];
        end else begin : tail
          always @(posedge clk) word <= delay[stage-1].word;
        end
      end
      assign out[port*WIDTH +: WIDTH] = delay[port-1].word;
    end
  endgenerate
endmodule
