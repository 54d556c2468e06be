// The gRPC C++ peer of benchmarks/transport: the callback interface, raw bytes for messages,
// replies of constant size, so that only the transport is measured. `bench-cpp PORT`.
#include <cstdio>
#include <map>
#include <string>

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

namespace {

grpc::ByteBuffer Constant(size_t size) {
  grpc::Slice slice(std::string(size, 'x'));
  return grpc::ByteBuffer(&slice, 1);
}

class Call final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Call(const grpc::ByteBuffer* reply) : reply_(reply) { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartWriteAndFinish(reply_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no request"));
    }
  }
  void OnDone() override { delete this; }

 private:
  const grpc::ByteBuffer* reply_;
  grpc::ByteBuffer request_;
};

class Refusal final : public grpc::ServerGenericBidiReactor {
 public:
  Refusal() { Finish(grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "no such method")); }
  void OnDone() override { delete this; }
};

class Bench final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    auto found = replies_.find(context->method());
    if (found == replies_.end()) return new Refusal();
    return new Call(&found->second);
  }

 private:
  const std::map<std::string, grpc::ByteBuffer> replies_ = {
      {"/bench.Bench/Reply100", Constant(100)},
      {"/bench.Bench/Reply2500", Constant(2500)},
      {"/bench.Bench/Reply16384", Constant(16384)},
  };
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bench-cpp PORT\n");
    return 2;
  }
  Bench bench;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(std::string("127.0.0.1:") + argv[1], grpc::InsecureServerCredentials());
  builder.RegisterCallbackGenericService(&bench);
  auto server = builder.BuildAndStart();
  if (!server) return 1;
  server->Wait();
  return 0;
}
