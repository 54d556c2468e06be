// The interop cases, played by @grpc/grpc-js.
//
//     node client.js --address HOST:PORT --proto testing.proto [--ca FILE] [CASE ...]
//
// plays all cases, or those named, and prints one line of JSON for each: {"case", "fault"}, where
// fault is null or says what is wrong. Whether a reply was compressed is seen from the bytes on the
// wire, counted by a relay between client and server.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const net = require('node:net');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const CASE_WITHIN_MS = 300_000; // a long soak on a busy machine
const LARGE_REQUEST = 271_828;
const LARGE_REPLY = 314_159;
const REQUEST_SIZES = [27_182, 8, 1_828, 45_904];
const REPLY_SIZES = [31_415, 9, 2_653, 58_979];
const COMPRESSED_MAX = 8_192; // bytes on the wire of what is well above it when not compressed
const GZIP = { 'grpc.default_compression_algorithm': 2 };
const NO_COMPRESS = 2; // a flag of one message
const SPECIAL = '\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \u{1f608}\t\n';
const INITIAL = 'x-grpc-test-echo-initial';
const TRAILING = 'x-grpc-test-echo-trailing-bin';
const { OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, UNIMPLEMENTED } = grpc.status;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    address: { type: 'string' },
    proto: { type: 'string' },
    ca: { type: 'string' },
    parallel: { type: 'string', default: '1000' },
    soak: { type: 'string', default: '20' },
  },
});
const definition = loader.loadSync(flags.proto, { keepCase: true, defaults: true });
const { TestService, UnimplementedService } = grpc.loadPackageDefinition(definition).grpc.testing;
const credentials = flags.ca
  ? grpc.credentials.createSsl(fs.readFileSync(flags.ca))
  : grpc.credentials.createInsecure();

function connect(options = {}, address = flags.address, Service = TestService) {
  return new Service(address, credentials, { 'grpc.use_local_subchannel_pool': 1, ...options });
}

// What a unary or client-streaming call came to, once its status is there.
function outcome(start) {
  return new Promise((resolve) => {
    const result = {};
    const call = start((_error, reply) => {
      result.reply = reply;
    });
    call.on('metadata', (metadata) => {
      result.initial = metadata;
    });
    call.on('status', (status) => resolve({ ...result, ...status, call }));
  });
}

function unary(client, method, request, ...rest) {
  return outcome((done) => client[method](request, ...rest, done));
}

// What a call with streamed replies came to; `got` has their sizes.
function streamed(call, each = () => {}) {
  return new Promise((resolve) => {
    const result = { got: [] };
    call.on('metadata', (metadata) => {
      result.initial = metadata;
    });
    call.on('data', (reply) => {
      result.got.push(reply.payload.body.length);
      each(result.got.length, reply);
    });
    call.on('error', () => {}); // the status event says the same
    call.on('status', (status) => resolve({ ...result, ...status }));
  });
}

const payload = (size) => ({ body: Buffer.alloc(size) });
const large = (more = {}) => ({
  response_size: LARGE_REPLY,
  payload: payload(LARGE_REQUEST),
  ...more,
});
const outputs = (sizes, more = {}) => ({
  response_parameters: sizes.map((size) => ({ size })),
  ...more,
});

async function largeCall(client, more = {}) {
  const { code, details, reply } = await unary(client, 'UnaryCall', large(more));
  assert.strictEqual(code, OK, `status ${code}: ${details}`);
  assert.strictEqual(reply.payload.body.length, LARGE_REPLY);
  assert.ok(reply.payload.body.equals(Buffer.alloc(LARGE_REPLY)), 'the payload is not all zeros');
}

// Plays with a client whose bytes from the server are counted: play(client, received()).
async function relayed(play) {
  let count = 0;
  const [host, port] = flags.address.split(':');
  const server = net.createServer((near) => {
    const far = net.connect(Number(port), host);
    near.pipe(far);
    far.on('data', (chunk) => {
      count += chunk.length;
    });
    far.pipe(near);
    for (const end of [near, far]) {
      end.on('error', () => {
        near.destroy();
        far.destroy();
      });
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const client = connect({}, `127.0.0.1:${server.address().port}`);
  try {
    await unary(client, 'EmptyCall', {});
    await play(client, () => count);
  } finally {
    client.close();
    server.close();
  }
}

async function compressedUnary(client) {
  const compressing = connect(GZIP);
  await largeCall(compressing, { expect_compressed: { value: true } });
  compressing.close();
  await largeCall(client, { expect_compressed: { value: false } });
}

async function compressedStreaming() {
  const client = connect(GZIP);
  const { code, details, reply } = await outcome((done) => {
    const call = client.StreamingInputCall(done);
    // The flags of a message go where a stream has its encoding; Node's own write() knows no
    // numbers there.
    const write = (request, messageFlags) =>
      new Promise((resolve) => call._write(request, messageFlags, resolve));
    write({ payload: payload(27_182), expect_compressed: { value: true } }, 0)
      .then(() =>
        write({ payload: payload(45_904), expect_compressed: { value: false } }, NO_COMPRESS),
      )
      .then(() => call.end());
    return call;
  });
  client.close();
  assert.strictEqual(code, OK, `status ${code}: ${details}`);
  assert.strictEqual(reply.aggregated_payload_size, 73_086);
}

const CASES = {
  async empty_unary(client) {
    const { code, reply } = await unary(client, 'EmptyCall', {});
    assert.strictEqual(code, OK);
    assert.deepStrictEqual(reply, {});
  },

  large_unary: (client) => largeCall(client),

  async client_compressed_unary(client) {
    const probe = large({ expect_compressed: { value: true } });
    assert.strictEqual((await unary(client, 'UnaryCall', probe)).code, INVALID_ARGUMENT, 'probe');
    await compressedUnary(client);
  },

  client_compressed_unary_noprobe: compressedUnary,

  server_compressed_unary: () =>
    relayed(async (client, received) => {
      for (const compressed of [true, false]) {
        const before = received();
        await largeCall(client, { response_compressed: { value: compressed } });
        const wire = received() - before;
        assert.strictEqual(wire < COMPRESSED_MAX, compressed, `${wire} bytes, ${compressed}`);
      }
    }),

  async client_streaming(client) {
    const { code, reply } = await outcome((done) => {
      const call = client.StreamingInputCall(done);
      for (const size of REQUEST_SIZES) call.write({ payload: payload(size) });
      call.end();
      return call;
    });
    assert.strictEqual(code, OK);
    assert.strictEqual(reply.aggregated_payload_size, 74_922);
  },

  async client_compressed_streaming(client) {
    const { code } = await outcome((done) => {
      const call = client.StreamingInputCall(done);
      call.end({ payload: payload(27_182), expect_compressed: { value: true } });
      return call;
    });
    assert.strictEqual(code, INVALID_ARGUMENT, 'probe');
    await compressedStreaming();
  },

  client_compressed_streaming_noprobe: compressedStreaming,

  async server_streaming(client) {
    const { code, got } = await streamed(client.StreamingOutputCall(outputs(REPLY_SIZES)));
    assert.deepStrictEqual([code, got], [OK, REPLY_SIZES]);
  },

  server_compressed_streaming: () =>
    relayed(async (client, received) => {
      const before = received();
      const request = outputs([31_415, 92_653]);
      request.response_parameters[0].compressed = { value: true };
      request.response_parameters[1].compressed = { value: false };
      const { code, got } = await streamed(client.StreamingOutputCall(request));
      assert.deepStrictEqual([code, got], [OK, [31_415, 92_653]]);
      const wire = received() - before;
      assert.ok(wire > 92_653 && wire < 92_653 + COMPRESSED_MAX, `${wire} bytes on the wire`);
    }),

  async ping_pong(client) {
    const call = client.FullDuplexCall();
    const ping = (number) =>
      call.write(outputs([REPLY_SIZES[number]], { payload: payload(REQUEST_SIZES[number]) }));
    const ended = streamed(call, (count) => {
      if (count < REPLY_SIZES.length) ping(count);
      else call.end();
    });
    ping(0);
    const { code, got } = await ended;
    assert.deepStrictEqual([code, got], [OK, REPLY_SIZES]);
  },

  async half_duplex(client) {
    const call = client.HalfDuplexCall();
    for (const size of REPLY_SIZES) call.write(outputs([size]));
    call.end();
    const { code, got } = await streamed(call);
    assert.deepStrictEqual([code, got], [OK, REPLY_SIZES]);
  },

  async empty_stream(client) {
    const call = client.FullDuplexCall();
    call.end();
    const { code, got } = await streamed(call);
    assert.deepStrictEqual([code, got], [OK, []]);
  },

  async custom_metadata(client) {
    const sent = new grpc.Metadata();
    sent.set(INITIAL, 'test_initial_metadata_value');
    sent.set(TRAILING, Buffer.from('ababab', 'hex'));
    const stream = client.FullDuplexCall(sent);
    stream.end(outputs([LARGE_REPLY]));
    for (const { code, initial, metadata } of await Promise.all([
      unary(client, 'UnaryCall', large(), sent),
      streamed(stream),
    ])) {
      assert.strictEqual(code, OK);
      assert.deepStrictEqual(initial.get(INITIAL), ['test_initial_metadata_value']);
      assert.deepStrictEqual(metadata.get(TRAILING), [Buffer.from('ababab', 'hex')]);
    }
  },

  async status_code_and_message(client) {
    const response_status = { code: UNKNOWN, message: 'test status message' };
    const stream = client.FullDuplexCall();
    stream.end({ response_status });
    for (const { code, details } of await Promise.all([
      unary(client, 'UnaryCall', { response_status }),
      streamed(stream),
    ])) {
      assert.deepStrictEqual({ code, message: details }, response_status);
    }
  },

  async special_status_message(client) {
    const response_status = { code: UNKNOWN, message: SPECIAL };
    const { code, details } = await unary(client, 'UnaryCall', { response_status });
    assert.deepStrictEqual({ code, message: details }, response_status);
  },

  async unimplemented_method(client) {
    const { path, requestSerialize, responseDeserialize } =
      UnimplementedService.service.UnimplementedCall;
    const missing = path.replace('UnimplementedService', 'TestService');
    const { code } = await outcome((done) =>
      client.makeUnaryRequest(missing, requestSerialize, responseDeserialize, {}, done),
    );
    assert.strictEqual(code, UNIMPLEMENTED);
  },

  async unimplemented_service() {
    const client = connect({}, flags.address, UnimplementedService);
    const { code } = await unary(client, 'UnimplementedCall', {});
    client.close();
    assert.strictEqual(code, UNIMPLEMENTED);
  },

  async cancel_after_begin(client) {
    const { code } = await outcome((done) => {
      const call = client.StreamingInputCall(done);
      setImmediate(() => call.cancel());
      return call;
    });
    assert.strictEqual(code, CANCELLED);
    await CASES.empty_unary(client);
  },

  async cancel_after_first_response(client) {
    const call = client.FullDuplexCall();
    const ended = streamed(call, () => call.cancel());
    call.write(outputs([31_415], { payload: payload(27_182) }));
    const { code, got } = await ended;
    assert.deepStrictEqual([code, got], [CANCELLED, [31_415]]);
    await CASES.empty_unary(client);
  },

  async timeout_on_sleeping_server(client) {
    await CASES.empty_unary(client);
    // A millisecond may be over before the call leaves; the longer one ends at the server.
    for (const timeout_ms of [1, 200]) {
      const call = client.FullDuplexCall({ deadline: Date.now() + timeout_ms });
      const ended = streamed(call);
      call.write({ payload: payload(27_182) });
      assert.strictEqual((await ended).code, DEADLINE_EXCEEDED, `after ${timeout_ms} ms`);
    }
  },

  async concurrent_large_unary(client) {
    const calls = Array.from({ length: Number(flags.parallel) }, () => largeCall(client));
    const failures = (await Promise.allSettled(calls)).filter(({ reason }) => reason);
    assert.strictEqual(failures.length, 0, `${failures.length} failed: ${failures[0]?.reason}`);
  },

  async rpc_soak(client) {
    for (let left = Number(flags.soak); left > 0; left -= 1) await largeCall(client);
  },

  async channel_soak() {
    for (let left = Number(flags.soak); left > 0; left -= 1) {
      const client = connect();
      await largeCall(client);
      client.close();
    }
  },
};

async function main() {
  for (const name of positionals.length ? positionals : Object.keys(CASES)) {
    const client = connect();
    let timer;
    const late = new Promise((_resolve, reject) => {
      timer = setTimeout(() => reject(new Error('the case did not end')), CASE_WITHIN_MS);
    });
    let fault = null;
    try {
      await Promise.race([CASES[name](client), late]);
    } catch (error) {
      fault = `${error.name}: ${error.message}`;
    }
    clearTimeout(timer);
    client.close();
    console.log(JSON.stringify({ case: name, fault }));
  }
}

main().then(() => process.exit(0)); // connections of a failed case must not keep it alive
