// The grpc-go peer of benchmarks/transport: replies of constant size, raw bytes for messages, so
// that only the transport is measured. `bench-go PORT`; GOMAXPROCS=1 is set by the one who starts it.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// raw hands messages over as they are on the wire.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func method(size int) grpc.MethodDesc {
	reply := make([]byte, size)
	for i := range reply {
		reply[i] = 'x'
	}
	handler := func(_ any, _ context.Context, decode func(any) error,
		_ grpc.UnaryServerInterceptor) (any, error) {
		var request []byte
		if err := decode(&request); err != nil {
			return nil, err
		}
		return &reply, nil
	}
	return grpc.MethodDesc{MethodName: fmt.Sprintf("Reply%d", size), Handler: handler}
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: bench-go PORT")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Bench",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{method(100), method(2500), method(16384)},
	}, struct{}{})
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
